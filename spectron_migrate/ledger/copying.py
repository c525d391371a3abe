"""Copies a ledger row by row from one engine to the other."""

from __future__ import annotations

import re

from spectron_migrate.database.interface import Database
from spectron_migrate.database.pages import pages
from spectron_migrate.ledger.schema import TABLES

_TABLE = re.compile(r"CREATE TABLE (\w+)\(")
NAMES: tuple[str, ...] = tuple(_TABLE.findall(TABLES))
"""The tables, each after those that it refers to."""
_PAGE = 2_000


def copy_rows(source: Database, target: Database) -> None:
    """Copy all rows into the empty tables of the target. Call inside transactions of both."""
    for name in NAMES:
        for page in pages(source, f"SELECT * FROM {name}", size=_PAGE):
            some = [tuple(row) for row in page]
            target.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(some[0]))})", some)
