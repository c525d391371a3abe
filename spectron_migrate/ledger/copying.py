"""Copies a ledger row by row from one engine to the other."""

from __future__ import annotations

import re

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.schema import TABLES

_TABLE = re.compile(r"CREATE TABLE (\w+)\(")
NAMES: tuple[str, ...] = tuple(_TABLE.findall(TABLES))
"""The tables, each after those that it refers to."""
_PAGE = 10_000


def copy_rows(source: Database, target: Database) -> None:
    """Copy all rows into the empty tables of the target. Call inside transactions of both."""
    for name in NAMES:
        rows = source.execute(f"SELECT * FROM {name}").fetchall()
        for start in range(0, len(rows), _PAGE):
            some = [tuple(row) for row in rows[start : start + _PAGE]]
            target.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(some[0]))})", some)
