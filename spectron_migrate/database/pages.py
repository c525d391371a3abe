"""Large results, read so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from spectron_migrate.database.interface import Database

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase


def pages(database: Database, sql: str, parameters: Sequence[Any] = (), *, size: int = 1000) -> Iterator[list[Any]]:
    """The rows of a statement, page by page."""
    if hasattr(database, "pages"):
        yield from cast("PostgresDatabase", database).pages(sql, parameters, size=size)
        return
    rows = database.execute(sql, parameters)
    while page := rows.fetchmany(size):
        yield page
