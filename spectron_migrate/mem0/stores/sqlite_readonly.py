"""Reads SQLite files of other applications without changing a byte, even while they write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.files.sqlite_heads import connect_noted, copy_file, forget_connection, read_head

_BUSY_SECONDS = 30.0
_TRIES = 20
_WAL_VERSION = b"\x02"
_VERSION_AT = 18
_COUNTER = slice(24, 28)
"""Where the header counts transactions."""


class ReadOnlyDb:
    """A database opened with `mode=ro`: SQLite's locks keep pages consistent, and no lock outlives a query.

    `immutable` is never set, because an application may be writing. Two kinds of file are copied first, because reading
    them in place would write: a file in WAL mode, beside which a reader creates files, and one with the journal of a
    crash, which has to be rolled back. The copy's name is removed as soon as it is open.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; raises InputError if it is not a database, Incomplete if it cannot be read now."""
        self.path = path
        self.is_copy = False
        """Whether this shows a copy of the file, without later writes."""
        if not path.is_file():
            raise InputError(f"there is no database at {path}")
        self._noted: tuple[int, int] | None = None
        """The file that this is connected to; None for a copy."""
        if is_wal(path):
            self._db = self._open_copy()
            return
        try:
            self._db, self._noted = connect_noted(path, lambda: self._open(path, "ro"))
        except sqlite3.OperationalError as error:
            if not path.with_name(path.name + "-journal").exists():
                raise self._explained(error) from error
            self._db = self._open_copy()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def all(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, in memory; the lock is released on return."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """The first column of the first row."""
        return self.all(sql, values)[0][0]

    def stream(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, under one lock from the first to the last: writers wait meanwhile, so read quickly."""
        try:
            yield from self._db.execute(sql, values)
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Queries in the block see one state of the file. Writers wait meanwhile, so read quickly."""
        self.all("BEGIN")
        try:
            yield
        finally:
            self.all("ROLLBACK")

    def close(self) -> None:
        """Close the database, and remove its copy if there is one."""
        self._db.close()
        noted, self._noted = self._noted, None
        if noted is not None:
            forget_connection(noted)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(path.resolve()))}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            db.execute("PRAGMA cache_size = -2000")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _open_copy(self) -> sqlite3.Connection:
        """Copy the file while nobody writes; raises Incomplete if it changes during each attempt."""
        self.is_copy = True
        parts = [self.path.with_name(self.path.name + tail) for tail in ("", "-journal", "-wal")]
        with Scratch() as folder:
            for _ in range(_TRIES):
                before = [_stamp(part) for part in parts]
                for part in parts:
                    (folder / part.name).unlink(missing_ok=True)
                    with suppress(FileNotFoundError):
                        copy_file(part, folder / part.name)
                if before == [_stamp(part) for part in parts]:
                    return self._open_and_recover(folder / self.path.name)
        raise Incomplete(f"{self.path} changes too fast to be copied", hint="run it again in a quieter moment")

    def _open_and_recover(self, copy: Path) -> sqlite3.Connection:
        """Open the copy and bring the journal or log beside it into its one file."""
        try:
            db = self._open(copy, "rw")
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        return db

    def _explained(self, error: sqlite3.DatabaseError) -> InputError | Incomplete:
        if isinstance(error, sqlite3.OperationalError) and "lock" in str(error):
            return Incomplete(
                f"{self.path} stayed locked for {_BUSY_SECONDS:.0f} s by an application that writes",
                hint="run it again when the application is less busy",
            )
        if isinstance(error, sqlite3.OperationalError):
            return Incomplete(f"{self.path} could not be read: {error}")
        return InputError(f"{self.path} is not a readable SQLite database: {error}")


def identity(path: Path) -> tuple[int, int, int] | None:
    """Device and inode of a file, and how many transactions have changed it; None if there is none.

    The count is that of the header, which does not change with the write-ahead log.
    """
    try:
        status, head = read_head(path, _COUNTER.stop)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, int.from_bytes(head[_COUNTER], "big")


def is_later_state(now: tuple[int, int, int] | None, before: tuple[int, int, int] | None) -> bool:
    """Whether both are from one file that was neither replaced nor set back to an older state."""
    return now is not None and before is not None and now[:2] == before[:2] and now[2] >= before[2]


def is_wal(path: Path) -> bool:
    """Whether the header says that the last writer used WAL mode."""
    _, head = read_head(path, _VERSION_AT + 1)
    return head[_VERSION_AT:] == _WAL_VERSION


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
