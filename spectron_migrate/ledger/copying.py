"""Copies a ledger row by row from one engine to the other, and computes digests of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate.database.digests import TableDigest, digest_of
from spectron_migrate.database.interface import Database
from spectron_migrate.files.atomic import sync_folder
from spectron_migrate.ledger import sqlite
from spectron_migrate.ledger.schema import DDL, FORMAT, TABLES

_TABLE = re.compile(r"CREATE TABLE (\w+)\((.*?)\n?\);", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*")
_OWN_KEY = re.compile(r"^\s*(\w+) \w+ PRIMARY KEY", re.MULTILINE)
_KEY = re.compile(r"PRIMARY KEY \(([^)]*)\)")
_NUMBERED = re.compile(r"^\s*(\w+) INTEGER PRIMARY KEY", re.MULTILINE)


def _tables() -> dict[str, str]:
    return dict(_TABLE.findall(_COMMENT.sub("", TABLES)))


def _key_of(body: str) -> tuple[str, ...]:
    found = _KEY.search(body)
    if found is not None:
        return tuple(each.strip() for each in found[1].split(","))
    own = _OWN_KEY.search(body)
    assert own is not None  # noqa: S101 - every table of the ledger has a key
    return (own[1],)


KEYS: dict[str, tuple[str, ...]] = {name: _key_of(body) for name, body in _tables().items()}
"""The tables, each after those to which it refers, with the columns of their keys."""
NAMES: tuple[str, ...] = tuple(KEYS)
NUMBERS: dict[str, str] = {name: found[1] for name, body in _tables().items() if (found := _NUMBERED.search(body))}
"""The tables whose keys are numbers that the engine assigns, with the columns of these numbers."""
_PAGE = 5_000


def rows_of(database: Database, name: str) -> Iterator[list[Any]]:
    """All rows of a table in the order of their keys, a page at a time, so that a large ledger needs no more memory."""
    key = KEYS[name]
    columns, values = ", ".join(key), ", ".join("?" * len(key))
    last: tuple[Any, ...] | None = None
    while True:
        after = f" WHERE ({columns}) > ({values})" if last is not None else ""
        page = database.execute(
            f"SELECT * FROM {name}{after} ORDER BY {columns} LIMIT {_PAGE}", last if last is not None else ()
        ).fetchall()
        if page:
            yield page
        if len(page) < _PAGE:
            return
        last = tuple(page[-1][column] for column in key)


def copy_rows(source: Database, target: Database) -> None:
    """Copy all rows into the empty tables of the target. Call inside transactions of both."""
    for name in NAMES:
        for page in rows_of(source, name):
            marks = ", ".join("?" * len(page[0]))
            target.executemany(f"INSERT INTO {name} VALUES ({marks})", [tuple(row) for row in page])


def write_file(folder: Path, source: Database) -> None:
    """Copy all rows into a new `ledger.db`, durably."""
    sqlite.create_file(folder / "ledger.db", DDL, FORMAT)
    with changing_file(folder) as target:
        copy_rows(source, target)
    sync_folder(folder)


@contextmanager
def changing_file(folder: Path) -> Iterator[Database]:
    """A durable transaction on the `ledger.db` of a place that nobody uses."""
    path = folder / "ledger.db"
    connection = sqlite.connect(path, read_only=False)
    with closing(connection), sqlite.transaction(connection, path, durable=True):
        yield connection


def digests_of(database: Database) -> list[TableDigest]:
    """Rows and digest of each table; equal on both engines for equal rows."""
    return [digest_of(name, (row for page in rows_of(database, name) for row in page)) for name in NAMES]


def clear(database: Database) -> None:
    """Delete all rows. Call inside a transaction."""
    for name in reversed(NAMES):
        database.execute(f"DELETE FROM {name}")


def is_empty(database: Database) -> bool:
    """Whether the ledger belongs to no migration yet."""
    return database.execute("SELECT 1 FROM migration").fetchone() is None


def raise_numbers(database: Database) -> None:
    """Rows were inserted with numbers of their own: let Postgres assign greater ones from now on.

    Call inside a transaction.
    """
    for name, column in NUMBERS.items():
        database.execute(
            f"SELECT setval(pg_get_serial_sequence('{name}', '{column}'),"
            f" (SELECT max({column}) FROM {name})) WHERE EXISTS (SELECT 1 FROM {name} WHERE {column} > 0)"
        )
