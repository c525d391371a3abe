"""What several owners of files need of a disk. Standard library alone, because applications import it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Modes of `fallocate`, from <linux/falloc.h>."""


def sync_folder(path: Path) -> None:
    """Make names in a directory durable: a file that was made or replaced there survives a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def reserve(handle: int, size: int) -> None:
    """Take the room of a file that is to be mapped: a full disk would kill whoever writes to it later. Raises OSError.

    What lies in it stays.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # macOS
        had = os.fstat(handle).st_size
        os.pwrite(handle, bytes(max(0, size - had)), had)


def free(handle: int, start: int, end: int) -> None:
    """Give back the room of a part of a file, which reads as zeros from then on; nothing behind it moves.

    Safe while others append. Raises OSError where system or file system cannot do that.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = next((getattr(libc, name) for name in ("fallocate64", "fallocate") if hasattr(libc, name)), None)
    if fallocate is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    if fallocate(handle, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


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
