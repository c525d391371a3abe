"""Reads SQLite files byte by byte without dropping this process's locks on them.

POSIX drops all locks that a process has on a file when it closes any descriptor of that file. So while this process has
a connection to a database, the descriptor with which the file was read stays open.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from sqlite3 import Connection

_lock = threading.Lock()
_connections: dict[tuple[int, int], int] = {}
"""How many connections this process has to each file, by device and inode."""
_kept: dict[tuple[int, int], list[int]] = {}
"""Descriptors to be closed with the last connection."""


def connect_noted(path: Path, connect: Callable[[], Connection]) -> tuple[Connection, tuple[int, int]]:
    """A connection to this file, and what to give to `forget_connection` once it is closed.

    `connect` is called again if the file was replaced meanwhile, because nobody knows then which one it opened.
    """
    while True:
        file = _note(path)
        try:
            connection = connect()
        except BaseException:
            forget_connection(file)
            raise
        with suppress(FileNotFoundError):
            if _identity(os.stat(path)) == file:
                return connection, file
        connection.close()
        forget_connection(file)


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
        kept = _kept.get(_identity(os.stat(path)))
        descriptor = kept[0] if kept else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        head = os.pread(descriptor, size, 0)
        if not kept:
            _close(descriptor)
        return status, head


def copy_file(path: Path, target: Path) -> None:
    """Copy all of a file; raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb", closefd=False) as source:
        try:
            with target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        finally:
            with _lock:
                _close(source.fileno())


def _note(path: Path) -> tuple[int, int]:
    with _lock:
        file = _identity(os.stat(path))
        _connections[file] = _connections.get(file, 0) + 1
        return file


def _close(descriptor: int) -> None:
    """Close it, or keep it open as long as there is a connection to its file; hold `_lock` meanwhile."""
    file = _identity(os.fstat(descriptor))
    if file in _connections:
        _kept.setdefault(file, []).append(descriptor)
    else:
        os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
