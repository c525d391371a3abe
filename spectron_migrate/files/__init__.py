"""Locks, durable and atomic writes, private directories. Standard library alone: applications import these modules."""
