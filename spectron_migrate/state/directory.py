"""A state in a directory, for the processes of one host. The interface is `StateStore` in `state/store.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.files.atomic import append_durably, replace_file, replacing
from spectron_migrate.files.locks import FileLock, holder_of, is_held, try_lock, wait_for_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.state.seal import refuse_left_directory

if TYPE_CHECKING:
    from spectron_migrate.state.call_log import CallLog
    from spectron_migrate.state.sqlite_tables import SqliteTables

SIGNS = ("ledger.db", "*/ledger.db", "log.jsonl")
"""If one of these exists, `spectron-migrate` has worked here: this is a state directory, not an empty volume."""


class DirectoryState:
    """A document is a file, a journal is a file of lines, and a lock is `flock` on a file."""

    def __init__(self, folder: Path) -> None:
        """The directory is made when a lock is first waited for."""
        self.folder = folder

    @property
    def place(self) -> Path:
        """The directory."""
        return self.folder

    @property
    def work_folder(self) -> Path:
        """The directory."""
        return self.folder

    def __str__(self) -> str:
        """The path, for messages."""
        return str(self.folder)

    def prepare(self) -> None:
        """Make the directory."""
        make_private_directory(self.folder)

    def is_there(self) -> bool:
        """Whether the directory is there."""
        return self.folder.is_dir()

    def close(self) -> None:
        """Nothing is open."""

    def describe(self, name: str) -> str:
        """The path."""
        return str(self.folder / name)

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """The contents of a file."""
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes, *, durable: bool = False, public: bool = False, epoch: int = 0) -> None:
        """Replace a file atomically, in a folder that is made in the directory.

        `epoch` is not needed, because writers of a document with epochs hold a lock.
        """
        del epoch
        if "/" in name and self.folder.is_dir():
            (self.folder / name).parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(self.folder / name, data, durable=durable, mode=0o644 if public else 0o600)

    def version(self, name: str) -> object:
        """Inode, size and time of the file."""
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def age_s(self, name: str) -> float:
        """Since the file's modification time."""
        try:
            return time.time() - (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def names(self, folder: str) -> list[str]:
        """The files of a folder in the directory."""
        return sorted(f"{folder}/{path.name}" for path in (self.folder / folder).glob("*.json"))

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.folder / name).unlink(missing_ok=True)

    def lines(self, name: str) -> list[bytes]:
        """The lines that end with a newline."""
        data = self.read(name) or b""
        return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def append_line(self, name: str, line: bytes, *, after: Sequence[bytes]) -> bool:
        """Append the line after these, overwriting a line that a crash cut off. The caller holds a lock."""
        append_durably(self.folder / name, line, after=sum(map(len, after)))
        return True

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file atomically."""
        path = self.folder / name
        make_private_directory(path.parent)
        with replacing(path) as file:
            for line in lines:
                file.write(line)

    def has_journal(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).exists()

    def has_begun(self) -> bool:
        """Whether a file shows that `spectron-migrate` has worked here."""
        return any(found for pattern in SIGNS for found in self.folder.glob(pattern))

    def lock(self, name: str) -> FileLock:
        """Wait for the lock; makes the directory."""
        make_private_directory(self.folder)
        return self._entered(wait_for_lock(self.folder / name))

    def try_lock(self, name: str) -> FileLock | None:
        """Take the lock if it is free."""
        lock = try_lock(self.folder / name)
        return None if lock is None else self._entered(lock)

    def _entered(self, lock: FileLock) -> FileLock:
        """The lock, which is released again if the state is elsewhere or is being copied."""
        try:
            refuse_left_directory(self.folder)
        except BaseException:
            lock.close()
            raise
        return lock

    def is_locked(self, name: str) -> bool:
        """Whether it is held."""
        return is_held(self.folder / name)

    def call_log(self, *, patience_s: float = 0.0) -> CallLog:
        """The log of calls of this host, which needs no waiting."""
        del patience_s
        from spectron_migrate.state.call_log import CallLog  # most commands read no calls

        return CallLog(self.folder)

    def tables(self, name: str, ddl: str, *, busy_s: float = 5.0) -> SqliteTables:
        """Tables in `<name>.db`."""
        # To evaluate a routing, SQLite is not needed.
        from spectron_migrate.state.sqlite_tables import SqliteTables

        return SqliteTables(self.folder / f"{name}.db", ddl, busy_s=busy_s)

    def holder_of(self, name: str) -> str:
        """The process whose number the file holds."""
        return holder_of(self.folder / name)
