"""SQLite files of somebody else's: read without a byte of theirs changing, also while they write."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, InputError

_BUSY_SECONDS = 30.0


class ReadOnlyDb:
    """A database opened with `mode=ro`: SQLite's own locks keep a page whole, and none outlives a query.

    `immutable` is never set, because an application may be writing. Where a crash left a journal that only a
    writer may roll back, file and journal are copied away and the copy is mended instead.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; raises InputError where it is no database, Incomplete where it cannot be read now."""
        self.path = path
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if not path.is_file():
            raise InputError(f"there is no database at {path}")
        try:
            self._db = self._open(path, "ro")
        except sqlite3.OperationalError as error:
            if not self._left_by_a_crash():
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

    def close(self) -> None:
        """Close the database and remove the copy, if one was needed."""
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

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
            db.execute("PRAGMA cache_size = -4000")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _left_by_a_crash(self) -> bool:
        return any(self.path.with_name(self.path.name + tail).exists() for tail in ("-journal", "-wal"))

    def _open_copy(self) -> sqlite3.Connection:
        self._copy = tempfile.TemporaryDirectory(prefix="spectron-migrate-")
        folder = Path(self._copy.name)
        for tail in ("", "-journal", "-wal"):
            beside = self.path.with_name(self.path.name + tail)
            if beside.exists():
                shutil.copyfile(beside, folder / beside.name)
        try:
            return self._open(folder / self.path.name, "rw")
        except sqlite3.DatabaseError as error:
            self._copy.cleanup()
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.DatabaseError) -> InputError | Incomplete:
        if isinstance(error, sqlite3.OperationalError) and "lock" in str(error):
            return Incomplete(
                f"{self.path} stayed locked for {_BUSY_SECONDS:.0f} s by an application that writes",
                hint="run it again when the application is less busy",
            )
        if isinstance(error, sqlite3.OperationalError):
            return Incomplete(f"{self.path} could not be read: {error}")
        return InputError(f"{self.path} is not a readable SQLite database: {error}")
