"""dual-verify: checks that every memory arrived, that nothing leaks, and that Spectron finds what Mem0 finds."""
