"""Mem0's memories in the stores that Mem0 can be configured with, read natively and read-only."""
