"""Copies of a state directory, taken while a process may be writing it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

LEFT_OUT = ("ledger.db-wal", "ledger.db-shm", "ledger.lock", "round.lock", "follow.lock", "cutover.lock")


def copy_state(state: Path, copy: Path) -> None:
    """What a backup of a running system is: every ledger as of one moment."""
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("ledger.db", *LEFT_OUT), dirs_exist_ok=True)
    for path in state.rglob("ledger.db"):
        target = copy / path.relative_to(state)
        target.parent.mkdir(parents=True, exist_ok=True)
        read_only = f"{path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True)) as original, closing(sqlite3.connect(target)) as database:
            original.backup(database)
            database.execute("PRAGMA journal_mode = WAL")
        target.chmod(0o600)
