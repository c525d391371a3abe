"""Keeping Spectron level with a Mem0 that goes on changing: rounds of following, the outbox, and who agrees."""
