"""The dump on disk: a directory that records what Mem0 held, when, and how that is known.

The manifest is renamed into place last, so a crash at any point leaves the old dump or the new one, never a mixture.
Raw Mem0 files are opened behind the same interface.
"""

from spectron_migrate.dump.changes import read_manifest
from spectron_migrate.dump.manifest import FileSum, Manifest, Tombstone
from spectron_migrate.dump.opened import Dump, open_dump
from spectron_migrate.dump.raw import open_any

__all__ = ["Dump", "FileSum", "Manifest", "Tombstone", "open_any", "open_dump", "read_manifest"]
