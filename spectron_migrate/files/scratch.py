"""Private folders for what a step needs on disk meanwhile: gone with the step, also where it was killed.

A folder is locked as long as its process lives, so whoever makes the next one knows which are left over, and
removes them. What can lie in a file without a name lies there instead, and nothing has to be removed.
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
    """A new folder that its owner alone may enter, and that is removed on `close`."""

    def __init__(self, base: Path | None = None) -> None:
        """Make it in `base`, or among the temporary files, after those of dead processes there are removed."""
        base = base or Path(tempfile.gettempdir())
        sweep(base)
        self.path, lock = _locked_folder(base)
        self._end = weakref.finalize(self, _removed, self.path, lock)  # also where nobody closes it

    def close(self) -> None:
        """Remove it and all that is in it; harmless twice."""
        self._end()

    def __enter__(self) -> Path:
        """The folder."""
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        self.close()


def sweep(base: Path) -> None:
    """Remove the scratch folders of processes that are no more."""
    for path in base.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone by now
        try:
            if try_lock_handle(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked_folder(base: Path) -> tuple[Path, int]:
    """A folder and the lock on it; a sweep that came between the two may have taken it, then another is made."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            lock_handle(lock)
            if path.is_dir():
                return path, lock
            os.close(lock)


def _removed(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
