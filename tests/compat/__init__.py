"""Against every line of Mem0 that people run."""
