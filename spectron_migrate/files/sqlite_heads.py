"""Reads the first bytes of SQLite files without dropping this process's locks on them.

POSIX drops all locks that a process has on a file when it closes any descriptor of that file. So while this process has
a connection to a database, the descriptor with which its head was read stays open.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_lock = threading.Lock()
_connections: dict[tuple[int, int], int] = {}
"""How many connections this process has to each file, by device and inode."""
_kept: dict[tuple[int, int], list[int]] = {}
"""Descriptors to be closed with the last connection."""


def note_connection(path: Path) -> tuple[int, int]:
    """Note that a connection to this file is about to be opened.

    Pass the result to `forget_connection` once it is closed.
    """
    with _lock:
        status = os.stat(path)
        file = status.st_dev, status.st_ino
        _connections[file] = _connections.get(file, 0) + 1
        return file


def forget_connection(file: tuple[int, int]) -> None:
    """Note that a connection was closed."""
    with _lock:
        _connections[file] -= 1
        if not _connections[file]:
            del _connections[file]
            for descriptor in _kept.pop(file, ()):
                os.close(descriptor)


def read_head(path: Path, size: int) -> tuple[os.stat_result, bytes]:
    """The state of a file and its first bytes; raises OSError."""
    with _lock:
        status = os.stat(path)
        kept = _kept.get((status.st_dev, status.st_ino))
        descriptor = kept[0] if kept else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        head = os.pread(descriptor, size, 0)
        if not kept and (status.st_dev, status.st_ino) in _connections:
            _kept.setdefault((status.st_dev, status.st_ino), []).append(descriptor)
        elif not kept:
            os.close(descriptor)
        return status, head
