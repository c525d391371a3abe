"""Frees disk space of a file without moving what stays."""

from __future__ import annotations

import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Modes of `fallocate`, from <linux/falloc.h>."""


def release_space(handle: int, start: int, end: int) -> None:
    """Free the disk space of bytes `start` to `end`, which then read as zeros. Offsets do not change.

    Safe while other processes append. Raises OSError if the system or the file system cannot do that.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = next((getattr(libc, name) for name in ("fallocate64", "fallocate") if hasattr(libc, name)), None)
    if fallocate is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    if fallocate(handle, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
