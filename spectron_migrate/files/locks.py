"""Locks between processes: `flock` on a file. `close`, or any end of the process, releases the lock."""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path
from types import TracebackType


class FileLock:
    """An exclusive lock that this process holds on a file."""

    def __init__(self, file: FileIO) -> None:
        """Use `try_lock` or `wait_for_lock`."""
        self._file = file

    @property
    def is_lost(self) -> bool:
        """Always false: a lock on a file is not lost while its process lives."""
        return False

    def close(self) -> None:
        """Release the lock. May be called twice."""
        self._file.close()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def try_lock(path: Path) -> FileLock | None:
    """Lock this file and write the process number into it; None while another process holds the lock.

    Creates the file if it is missing. Raises OSError if that is not possible.
    """
    while True:
        file = _open(path)
        if not try_lock_handle(file.fileno()):
            file.close()
            return None
        if _is_still_at(path, file):
            _name_holder(file)
            return FileLock(file)
        file.close()


def wait_for_lock(path: Path) -> FileLock:
    """Lock this file as soon as no other process holds it. For locks that are held only briefly."""
    while True:
        file = _open(path)
        lock_handle(file.fileno())
        if _is_still_at(path, file):
            return FileLock(file)
        file.close()


def holder_of(path: Path) -> str:
    """The process that holds this lock, for an error message: `process 123`, or `another process` if unknown."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        words = []
    return f"process {words[-1]}" if words else "another process"


def is_held(path: Path) -> bool:
    """Whether a living process holds this lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not try_lock_handle(handle, shared=True)
    except OSError:
        return True  # it cannot be determined, so report it as held
    finally:
        os.close(handle)


def lock_handle(handle: int) -> None:
    """Lock an open file or directory exclusively; waits for other processes."""
    fcntl.flock(handle, fcntl.LOCK_EX)


def try_lock_handle(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory, or convert the lock held on it; False if another process's lock prevents it.

    An exclusive lock admits no other lock, a shared one admits other shared ones.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> FileIO:
    return FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600))


def _is_still_at(path: Path, file: FileIO) -> bool:
    """False if the last holder removed the file before it was locked here: such a lock keeps no other process out."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _name_holder(file: FileIO) -> None:
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
    except OSError:
        pass  # the disk is full; the lock works without a name too
