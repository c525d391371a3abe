"""Reads Mem0's memories from files."""
