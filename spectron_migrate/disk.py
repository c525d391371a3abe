"""What several owners of files need of a disk. Standard library alone, because applications import it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Make names in a directory durable: a file that was made or replaced there survives a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_held(path: Path) -> bool:
    """Whether a living process holds this lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
