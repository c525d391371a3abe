"""The dump on disk: one directory that says what Mem0 held, when, and how that is known.

The manifest is renamed into place last, so that a crash at any point leaves the old dump or the new one,
never half of each. Raw Mem0 files offer the same interface.
"""

from spectron_migrate.dump.manifest import FileSum, Manifest, Tombstone, read_manifest
from spectron_migrate.dump.opened import Dump, open_any, open_dump

__all__ = ["Dump", "FileSum", "Manifest", "Tombstone", "open_any", "open_dump", "read_manifest"]
