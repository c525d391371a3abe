"""Durable writes, locks and private folders: what several owners of files need of a disk."""
