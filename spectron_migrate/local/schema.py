"""The tables of a store file, and opening it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

FORMAT = 2
"""Increases with every change of the tables; `MIGRATIONS` upgrade an older file."""

MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE attribute ADD COLUMN labels TEXT;
ALTER TABLE relation ADD COLUMN confidence REAL NOT NULL DEFAULT 1.0;
ALTER TABLE relation ADD COLUMN labels TEXT;
ALTER TABLE note ADD COLUMN entity TEXT;
ALTER TABLE note ADD COLUMN key TEXT;
ALTER TABLE note ADD COLUMN labels TEXT;
DROP VIEW facts;
CREATE VIEW facts AS
    SELECT attribute.id, entity.type || '/' || entity.name AS entity, key, value, clauses AS scopes,
        attribute.category, confidence, origin, turn, session, attribute.created_at, valid_until, supersedes,
        superseded_by, attribute.labels
    FROM attribute JOIN entity ON entity.id = attribute.entity JOIN selector ON selector.number = attribute.selector;
"""
}
"""Format -> statements that upgrade it to the next."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scope (
    path TEXT PRIMARY KEY, created_at TEXT NOT NULL, tombstoned_at TEXT, display_name TEXT, description TEXT
) WITHOUT ROWID;
CREATE TABLE selector (
    number INTEGER PRIMARY KEY, clauses TEXT NOT NULL, unscoped INTEGER NOT NULL, UNIQUE (clauses, unscoped)
);
CREATE TABLE principal (id TEXT PRIMARY KEY, kind TEXT NOT NULL, display_name TEXT NOT NULL, grants TEXT NOT NULL);
CREATE TABLE key (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, principal TEXT NOT NULL, digest TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL, grants TEXT, valid_until TEXT
);
CREATE TABLE session (
    id TEXT PRIMARY KEY, selector INTEGER NOT NULL, created_at TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE INDEX session_selector ON session(selector);
CREATE TABLE turn (
    id TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
    created_at TEXT NOT NULL, said_at TEXT, PRIMARY KEY (session, seq)
) WITHOUT ROWID;
CREATE TABLE item (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, selector INTEGER NOT NULL,
    text TEXT NOT NULL, known_at TEXT NOT NULL, until TEXT, duplicate_of TEXT, labels TEXT, session TEXT, turn TEXT,
    print INTEGER NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX item_selector ON item(selector);
CREATE INDEX item_session ON item(session);
CREATE INDEX item_twin ON item(duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE VIRTUAL TABLE item_text USING fts5(
    text, selector, content='item', content_rowid='number', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER item_added AFTER INSERT ON item BEGIN
    INSERT INTO item_text(rowid, text, selector) VALUES (new.number, new.text, new.selector);
END;
CREATE TRIGGER item_gone AFTER DELETE ON item BEGIN
    INSERT INTO item_text(item_text, rowid, text, selector) VALUES ('delete', old.number, old.text, old.selector);
END;
CREATE TABLE entity (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL, category TEXT NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, importance REAL NOT NULL, normal_name TEXT NOT NULL, UNIQUE (type, normal_name)
);
CREATE INDEX entity_name ON entity(normal_name);
CREATE TABLE entity_scope (
    entity TEXT NOT NULL, selector INTEGER NOT NULL, until TEXT, PRIMARY KEY (entity, selector)
) WITHOUT ROWID;
CREATE TABLE attribute (
    id TEXT PRIMARY KEY, entity TEXT NOT NULL, selector INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    category TEXT NOT NULL, confidence REAL NOT NULL, origin TEXT NOT NULL, turn TEXT, session TEXT,
    created_at TEXT NOT NULL, valid_until TEXT, supersedes TEXT, superseded_by TEXT, importance REAL NOT NULL,
    labels TEXT
);
CREATE INDEX attribute_entity ON attribute(entity, key, selector);
CREATE TABLE relation (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, label TEXT NOT NULL, object TEXT NOT NULL, selector INTEGER NOT NULL,
    category TEXT NOT NULL, origin TEXT NOT NULL, turn TEXT, session TEXT, created_at TEXT NOT NULL, valid_until TEXT,
    confidence REAL NOT NULL, labels TEXT
);
CREATE INDEX relation_subject ON relation(subject, label);
CREATE INDEX relation_object ON relation(object);
CREATE TABLE note (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, selector INTEGER NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL,
    created_at TEXT NOT NULL, entity TEXT, key TEXT, labels TEXT
);
CREATE TABLE idempotency (
    principal TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, body BLOB NOT NULL, created_at TEXT NOT NULL,
    PRIMARY KEY (principal, key)
);

CREATE VIEW turns AS
    SELECT turn.id, session, seq, role, content, turn.created_at, said_at, clauses AS scopes, metadata
    FROM turn JOIN session ON session.id = session JOIN selector ON selector.number = session.selector;
CREATE VIEW sessions AS
    SELECT session.id, clauses AS scopes, metadata, created_at,
        (SELECT count(*) FROM turn WHERE turn.session = session.id) AS turns
    FROM session JOIN selector ON selector.number = session.selector;
CREATE VIEW facts AS
    SELECT attribute.id, entity.type || '/' || entity.name AS entity, key, value, clauses AS scopes,
        attribute.category, confidence, origin, turn, session, attribute.created_at, valid_until, supersedes,
        superseded_by, attribute.labels
    FROM attribute JOIN entity ON entity.id = attribute.entity JOIN selector ON selector.number = attribute.selector;
CREATE VIEW passages AS
    SELECT item.id, turn, session, text, clauses AS scopes, known_at, until, duplicate_of
    FROM item JOIN selector ON selector.number = item.selector WHERE kind = 'memory_chunk';
"""


_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class StoreRefused(Exception):
    """The store's file cannot be opened; the message says which file and why, in one sentence."""


def prepare(path: Path | None, context: str, dimensions: int) -> tuple[sqlite3.Connection, sqlite3.Connection | None]:
    """Open the store of a context, made if it is missing, and hold it against other processes.

    Returns:
        The connection, and the one that holds the lock while it is open (None in memory).

    Raises:
        StoreRefused: another process holds it, or the file is of another context, format or vector length.
    """
    lock = _hold(path) if path is not None else None
    try:
        connection = _connect(path)
        _upgrade(connection, path, {"context": context, "dimensions": str(dimensions)})
    except StoreRefused:
        if lock is not None:
            lock.close()
        raise
    except sqlite3.DatabaseError as error:
        if lock is not None:
            lock.close()
        is_disk = error.sqlite_errorcode & 0xFF in _OF_THE_DISK
        why = "cannot be read or written" if is_disk else "is not a store of the local Spectron"
        raise StoreRefused(f"{path} {why}: {error}") from error
    return connection, lock


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.touch(mode=0o600)  # only the owner may read memories; SQLite gives its other files the same mode
    connection = sqlite3.connect(
        path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _hold(path: Path) -> sqlite3.Connection:
    """An exclusive lock that ends with the process, on every system that SQLite supports."""
    beside = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside.touch(mode=0o600)
    except OSError as error:
        raise StoreRefused(f"{path.parent} cannot be written: {error.strerror or error}") from error
    lock = sqlite3.connect(beside, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        lock.close()
        if error.sqlite_errorname == "SQLITE_BUSY":
            raise StoreRefused(f"{path} is in use by another local Spectron") from error
        raise StoreRefused(f"{beside} cannot be locked: {error}") from error
    return lock


def _upgrade(connection: sqlite3.Connection, path: Path | None, expected: dict[str, str]) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise StoreRefused(f"{path} was written by a newer version (format {found}, this one knows {FORMAT})")
    if found == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        raise StoreRefused(f"{path} is not a store of the local Spectron")
    connection.execute("BEGIN IMMEDIATE")
    if found == 0:
        _run(connection, _TABLES)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", expected.items())
    for step in range(found or FORMAT, FORMAT):
        _run(connection, MIGRATIONS[step])
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")
    held = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    for name, value in expected.items():
        if held.get(name) != value:
            raise StoreRefused(f"{path} holds {name} {held.get(name)}, not {value}")


def _run(connection: sqlite3.Connection, statements: str) -> None:
    """Run statements one by one: `executescript` would commit the transaction that they share."""
    statement = ""
    for line in statements.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
