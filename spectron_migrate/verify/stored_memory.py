"""A version of a memory that Spectron confirmed, as verification reads it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from spectron_migrate.ledger.read.receipts import ReceiptRow
from spectron_migrate.records import Selector

_NAMES = tuple(field.name for field in fields(ReceiptRow))
_VALUES = attrgetter(*_NAMES)
_NEWEST, _TOMBSTONED = map(_NAMES.index, ("newest", "tombstoned"))


@dataclass(frozen=True, slots=True)
class StoredMemory(ReceiptRow):
    """A receipt, with its numbers in the workspace. Whether it is stale was determined when the run began."""

    no: int
    scope: int
    """The number of its selector."""

    @classmethod
    def of(cls, row: ReceiptRow, known: sqlite3.Row) -> StoredMemory:
        """The receipt of a fact and the fact's row in the workspace."""
        values: list[Any] = [*_VALUES(row), known["no"], known["scope"]]
        values[_NEWEST], values[_TOMBSTONED] = bool(known["newest"]), bool(known["tombstoned"])
        return cls(*values)

    @property
    def stale(self) -> bool:
        """Whether it is an older version, or deleted in Mem0, so that an application must not be shown it."""
        return self.tombstoned or not self.newest


def selector_text(selector: Selector) -> str:
    """A selector in words, such as `user/anna and team/a or team/b`."""
    return " or ".join(" and ".join(clause) for clause in selector)
