"""Reads Mem0's memories over HTTP: from the Platform and the self-hosted server."""
