"""The tables of a verification's workspace, and its file."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from spectron_migrate.errors import LedgerLocked
from spectron_migrate.files.locks import FileLock, try_lock
from spectron_migrate.judge import plain

FORMAT = "8"
"""The format of the file. A run in another format starts over."""

DDL = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scope(no INTEGER PRIMARY KEY, selector TEXT NOT NULL UNIQUE);
CREATE TABLE fact(
  no INTEGER PRIMARY KEY, mem0_id TEXT NOT NULL, newest INTEGER NOT NULL, tombstoned INTEGER NOT NULL,
  scope INTEGER NOT NULL, echoed INTEGER NOT NULL, extracted INTEGER, category TEXT, owner TEXT NOT NULL,
  plain BLOB NOT NULL, lot BLOB NOT NULL
);
CREATE INDEX fact_scope ON fact(scope, lot);
CREATE INDEX fact_plain ON fact(plain);
CREATE INDEX fact_owner ON fact(owner, lot);
CREATE TABLE expected(mem0_id TEXT PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX expected_kind ON expected(kind, reason);
CREATE TABLE leftover(turn TEXT PRIMARY KEY, scope INTEGER NOT NULL, plain BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE passage(id TEXT, fact INTEGER, plain BLOB NOT NULL, PRIMARY KEY (fact, id)) WITHOUT ROWID;
CREATE INDEX passage_plain ON passage(plain);
CREATE TABLE finding(
  no INTEGER PRIMARY KEY, layer TEXT NOT NULL, kind TEXT NOT NULL, mem0_id TEXT, reason TEXT NOT NULL,
  place TEXT NOT NULL, texts TEXT NOT NULL
);
CREATE INDEX finding_kind ON finding(kind, mem0_id);
CREATE TABLE done(layer TEXT NOT NULL, subject TEXT NOT NULL, PRIMARY KEY (layer, subject)) WITHOUT ROWID;
CREATE TABLE entity(id TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trace(row TEXT NOT NULL, fact INTEGER NOT NULL, PRIMARY KEY (row, fact)) WITHOUT ROWID;
CREATE INDEX trace_fact ON trace(fact);
CREATE TABLE accounted(row TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE sighting(
  id TEXT NOT NULL, lens TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, turn TEXT, PRIMARY KEY (id, lens)
) WITHOUT ROWID;
CREATE TABLE traced(name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE answer(no INTEGER PRIMARY KEY, told TEXT NOT NULL);
"""


def text_key(text: str) -> bytes:
    """The same key for texts that differ only in case, spaces and Unicode form."""
    return hashlib.sha256(plain(text).encode("utf-8", "surrogatepass")).digest()[:16]


def text_mark(text: str) -> str:
    """A short `text_key` for reports: enough to tell the rows of one answer apart."""
    return text_key(text)[:6].hex()


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which must exist."""
    db = sqlite3.connect(path, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def remove(path: Path) -> None:
    """Remove the file and SQLite's files beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def hold(path: Path) -> FileLock:
    """Keep other processes from verifying here, because each would remove the other's file. Raises LedgerLocked."""
    lock = try_lock(path)
    if lock is None:
        raise LedgerLocked(
            f"another process is verifying in {path.parent}",
            hint="wait for it, or stop it; it continues when run again",
        )
    return lock
