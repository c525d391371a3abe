"""SQLite files of somebody else's: read without a byte of theirs changing, also while they write."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.files.scratch import Scratch

_BUSY_SECONDS = 30.0
_TRIES = 20
_WAL_VERSION = b"\x02"
_VERSION_AT = 18


class ReadOnlyDb:
    """A database opened with `mode=ro`: SQLite's own locks keep a page whole, and none outlives a query.

    `immutable` is never set, because an application may be writing. Two kinds of file cannot be read so
    without leaving a trace, and are copied away first: one in WAL mode, whose reader writes beside it, and one
    where a crash left a journal that only a writer may roll back. The copy has a name only while it is made.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; raises InputError where it is no database, Incomplete where it cannot be read now."""
        self.path = path
        if not path.is_file():
            raise InputError(f"there is no database at {path}")
        if _is_wal(path):
            self._db = self._open_copy()
            return
        try:
            self._db = self._open(path, "ro")
        except sqlite3.OperationalError as error:
            if not path.with_name(path.name + "-journal").exists():
                raise self._explained(error) from error
            self._db = self._open_copy()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def all(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query at once: the lock is gone when this returns, so keep the answer small."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """The first column of the first row."""
        return self.all(sql, values)[0][0]

    def stream(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, under one lock from the first to the last: writers wait, so be quick."""
        try:
            yield from self._db.execute(sql, values)
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Queries inside see one state of the file; writers wait meanwhile, so be quick."""
        self.all("BEGIN")
        try:
            yield
        finally:
            self.all("ROLLBACK")

    def close(self) -> None:
        """Close the database; a copy of it, if one was needed, ends with that."""
        self._db.close()

    def __enter__(self) -> Self:
        """The database itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
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
        """Copied while nothing moved, or not at all."""
        parts = [self.path.with_name(self.path.name + tail) for tail in ("", "-journal", "-wal")]
        with Scratch() as folder:
            for _ in range(_TRIES):
                before = [_stamp(part) for part in parts]
                for part in parts:
                    (folder / part.name).unlink(missing_ok=True)
                    with suppress(FileNotFoundError):
                        shutil.copyfile(part, folder / part.name)
                if before == [_stamp(part) for part in parts]:
                    return self._made_whole(folder / self.path.name)
        raise Incomplete(f"{self.path} changes too fast to be copied", hint="run it again in a quieter moment")

    def _made_whole(self, copy: Path) -> sqlite3.Connection:
        """One file, which goes on without its name: what a journal or a log beside it says is in it."""
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


def _is_wal(path: Path) -> bool:
    """The header says which journal the last writer used."""
    with path.open("rb") as file:
        return file.read(_VERSION_AT + 1)[_VERSION_AT:] == _WAL_VERSION


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
