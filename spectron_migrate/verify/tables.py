"""The tables of a verification's workspace, and how a row becomes a value."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from spectron_migrate.errors import LedgerLocked
from spectron_migrate.files.locks import FileLock, try_lock
from spectron_migrate.judge import plain
from spectron_migrate.records import selector_of
from spectron_migrate.verify.stored_memory import StoredMemory

DDL = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scope(no INTEGER PRIMARY KEY, selector TEXT NOT NULL UNIQUE);
CREATE TABLE path(path TEXT NOT NULL, scope INTEGER NOT NULL, PRIMARY KEY (path, scope)) WITHOUT ROWID;
CREATE TABLE session(
  no INTEGER PRIMARY KEY, id TEXT NOT NULL, source INTEGER NOT NULL, scope INTEGER NOT NULL, infer TEXT NOT NULL,
  residue TEXT NOT NULL, undecided TEXT NOT NULL
);
CREATE TABLE fact(
  no INTEGER PRIMARY KEY, mem0_id TEXT NOT NULL, version INTEGER NOT NULL, newest INTEGER NOT NULL,
  text TEXT NOT NULL, text_at TEXT, order_key TEXT NOT NULL, scope INTEGER NOT NULL, run TEXT, infer TEXT NOT NULL,
  category TEXT, state TEXT NOT NULL, session TEXT NOT NULL, turn_id TEXT, chunk_id TEXT, ids TEXT NOT NULL,
  late INTEGER NOT NULL, echoed INTEGER NOT NULL, tombstoned INTEGER NOT NULL, owners TEXT NOT NULL,
  owner TEXT NOT NULL, plain BLOB NOT NULL, lot BLOB NOT NULL
);
CREATE INDEX fact_memory ON fact(mem0_id, version);
CREATE INDEX fact_scope ON fact(scope, lot);
CREATE INDEX fact_session ON fact(session);
CREATE INDEX fact_plain ON fact(plain);
CREATE INDEX fact_owner ON fact(owner, lot);
CREATE TABLE receipt(id TEXT NOT NULL, fact INTEGER NOT NULL, PRIMARY KEY (id, fact)) WITHOUT ROWID;
CREATE TABLE expected(mem0_id TEXT PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX expected_kind ON expected(kind, reason);
CREATE TABLE carried(mem0_id TEXT PRIMARY KEY, message TEXT NOT NULL, text TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX carried_message ON carried(message);
CREATE TABLE leftover(turn TEXT PRIMARY KEY, scope INTEGER NOT NULL, plain BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE finding(
  no INTEGER PRIMARY KEY, layer TEXT NOT NULL, kind TEXT NOT NULL, mem0_id TEXT, reason TEXT NOT NULL,
  place TEXT NOT NULL, texts TEXT NOT NULL
);
CREATE INDEX finding_kind ON finding(kind, mem0_id);
CREATE TABLE done(layer TEXT NOT NULL, subject TEXT NOT NULL, PRIMARY KEY (layer, subject)) WITHOUT ROWID;
CREATE TABLE entity(id TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE answer(no INTEGER PRIMARY KEY, told TEXT NOT NULL);
"""


def text_key(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, spaces and Unicode form."""
    return hashlib.sha256(plain(text).encode("utf-8", "surrogatepass")).digest()[:16]


def text_mark(text: str) -> str:
    """A short `text_key` for reports: enough to tell the rows of one answer apart."""
    return text_key(text)[:6].hex()


def path_range(pattern: str) -> tuple[str, str]:
    """The paths that a pattern may match, as a half-open range of text."""
    if pattern in ("*", "/*"):
        return "", "\U0010ffff"
    if pattern.endswith("/*"):
        root = pattern.strip("/")[:-2]
        return f"{root}/", f"{root}0"  # `0` comes right after `/`
    node = pattern.strip("/")
    return node, f"{node}\0"


def fact_of(row: sqlite3.Row) -> StoredMemory:
    """A fact from its row, which has its selector beside it."""
    return StoredMemory(
        no=row["no"],
        mem0_id=row["mem0_id"],
        version=row["version"],
        newest=bool(row["newest"]),
        text=row["text"],
        text_at=row["text_at"],
        order_key=row["order_key"],
        selector=_selector(row["selector"]),
        scope=row["scope"],
        run=row["run"],
        infer=row["infer"],
        category=row["category"],
        state=row["state"],
        session_id=row["session"],
        turn_id=row["turn_id"],
        chunk_id=row["chunk_id"],
        ids=tuple(json.loads(row["ids"])) if row["ids"] != "[]" else (),
        late=bool(row["late"]),
        echoed=bool(row["echoed"]),
        tombstoned=bool(row["tombstoned"]),
        owners=_owners(row["owners"]),
    )


# Neighbouring rows have the same scope and owner: parsing them once each is most of what reading a row costs.
_selector = lru_cache(1024)(selector_of)


@lru_cache(1024)
def _owners(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which has to be there."""
    db = sqlite3.connect(path, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def remove(path: Path) -> None:
    """Remove the file and what SQLite lays beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def hold(path: Path) -> FileLock:
    """Keep other processes from verifying here: each would remove the other's file. Raises LedgerLocked."""
    lock = try_lock(path)
    if lock is None:
        raise LedgerLocked(
            f"another process is verifying in {path.parent}", hint="wait for it, or stop it; it goes on when run again"
        )
    return lock
