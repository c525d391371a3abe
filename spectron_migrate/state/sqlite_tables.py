"""Small tables of a state directory, in files that several processes of a host write to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron_migrate.files.shared_sqlite import open_shared


class SqliteTables:
    """Tables in a file of their own."""

    prefix = ""

    def __init__(self, path: Path, ddl: str, *, busy_s: float) -> None:
        """Open or create the file; raises OSError or sqlite3.Error."""
        self._lock = threading.Lock()
        self._db = open_shared(path, ddl, busy_s=busy_s)
        self._db.execute("PRAGMA synchronous = FULL")

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def change(self, *statements: tuple[str, Sequence[Sequence[Any]]]) -> None:
        """Run each statement for each of its rows, in one transaction that is durable."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, rows in statements:
                    self._db.executemany(sql, rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._lock:
            self._db.close()
