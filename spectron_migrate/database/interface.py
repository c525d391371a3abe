"""The interface of a connection on both engines. `sqlite3.Connection` fits it as it is.

Statements are written for both: `?` for values, no function that only one engine has, and no integer where a condition
is needed. `dialect` says what is translated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Conflict(Exception):
    """The transaction was rolled back, because it and another one waited for each other. It may be run again."""


class ResultRow(Protocol):
    """One row; a column is found by its name or its place."""

    def __getitem__(self, key: int | str, /) -> Any:
        """The value of a column."""

    def __iter__(self) -> Iterator[Any]:
        """The values."""

    def __len__(self) -> int:
        """How many columns it has."""

    def keys(self) -> list[str]:
        """The names of the columns."""


class Result(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """The next row; None after the last."""

    def fetchmany(self, size: int, /) -> list[Any]:
        """The next rows; none after the last."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left."""


class Database(Protocol):
    """A connection; used by one thread at a time."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Result:
        """Run one statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Result:
        """Run one statement for each of the rows."""

    def close(self) -> None:
        """End the connection."""
