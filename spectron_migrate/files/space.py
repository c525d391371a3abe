"""Disk space of a file: reserved before it is memory-mapped, released without moving the rest."""

from __future__ import annotations

import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Modes of `fallocate`, from <linux/falloc.h>."""


def reserve_space(handle: int, size: int) -> None:
    """Allocate the disk space of a file that will be memory-mapped. Its content stays. Raises OSError.

    A process that writes to a mapped page for which the disk has no space is killed (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # macOS
        had = os.fstat(handle).st_size
        os.pwrite(handle, bytes(max(0, size - had)), had)


def release_space(handle: int, start: int, end: int) -> None:
    """Give back the disk space of bytes `start` to `end`, which then read as zeros; offsets do not change.

    Safe while other processes append. Raises OSError if the system or the file system cannot do that.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = next((getattr(libc, name) for name in ("fallocate64", "fallocate") if hasattr(libc, name)), None)
    if fallocate is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    if fallocate(handle, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
