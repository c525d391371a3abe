"""Private temporary folders, removed at the end of a step, or later if its process was killed.

A folder is locked as long as its process lives. So the next process that creates one can tell which folders are left
over, and removes them. Data that fits in one file is kept in a file without a name instead, which needs no removal.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from spectron_migrate.files.locks import lock_handle, try_lock_handle

PREFIX = "spectron-migrate-scratch-"


class Scratch:
    """A new folder that only its owner may enter; `close` removes it."""

    def __init__(self, base: Path | None = None) -> None:
        """Create it in `base` (default: the system's temporary directory) and remove those of dead processes there."""
        base = base or Path(tempfile.gettempdir())
        sweep(base)
        self.path, lock = _locked_folder(base)
        self._finalizer = weakref.finalize(self, _remove, self.path, lock)  # also if `close` is never called

    def close(self) -> None:
        """Remove the folder and its content. May be called twice."""
        self._finalizer()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep(base: Path) -> None:
    """Remove the scratch folders of processes that have ended."""
    for path in base.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or already removed
        try:
            if try_lock_handle(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked_folder(base: Path) -> tuple[Path, int]:
    """A new folder and the lock on it. If a sweep removes the folder before it is locked, another one is made."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            lock_handle(lock)
            if path.is_dir():
                return path, lock
            os.close(lock)


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
