"""Readers of Mem0: one for each kind of store, service and file. None of them writes to Mem0 or constructs its objects.

Nothing is imported here, so that a command imports only the reader it needs.
"""
