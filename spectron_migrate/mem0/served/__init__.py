"""Mem0's memories behind HTTP: the Platform and the self-hosted server."""
