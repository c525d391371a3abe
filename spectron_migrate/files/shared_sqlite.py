"""Small SQLite files that several processes of a host write to."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

_RETRY_S = 0.005
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_shared(path: Path, ddl: str, *, busy_s: float) -> sqlite3.Connection:
    """Open or create a file with this schema; waits up to `busy_s` seconds for other processes that do the same.

    Raises OSError or sqlite3.Error if it cannot be used.
    """
    # Only create it, never open an existing one: closing it would release SQLite's own locks in this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_s)
    deadline = time.monotonic() + busy_s
    while True:
        try:
            # SQLite does not wait for a lock when it changes the journal mode.
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(ddl)
            return db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY_CODES or time.monotonic() >= deadline:
                db.close()
                raise
        time.sleep(_RETRY_S)
