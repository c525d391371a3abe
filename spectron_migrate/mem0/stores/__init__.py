"""Reads Mem0's memories from the stores that Mem0 supports, natively and read-only."""
