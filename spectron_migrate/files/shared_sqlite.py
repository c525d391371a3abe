"""Small SQLite files that several processes of a host write to. Standard library alone: applications import this."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

_PAUSE_S = 0.005
_ASIDE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_shared(path: Path, ddl: str, *, busy_s: float) -> sqlite3.Connection:
    """Open it, or make it; whoever comes at the same moment is waited for, for so many seconds.

    Raises OSError or sqlite3.Error where it cannot be used.
    """
    # Only where there is none yet: closing a file of SQLite's beside it lets go of the locks that it holds there.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_s)
    deadline = time.monotonic() + busy_s
    while True:
        try:
            # SQLite does not wait for its turn to change the mode of a journal.
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(ddl)
            return db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _ASIDE or time.monotonic() >= deadline:
                db.close()
                raise
        time.sleep(_PAUSE_S)
