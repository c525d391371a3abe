"""Mem0's memories in files."""
