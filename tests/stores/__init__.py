"""Stores that a real Mem0 filled, each on a real server."""
