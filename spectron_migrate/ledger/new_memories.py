"""Inserts memories with their versions and facts, many at once."""

from __future__ import annotations

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.schema import marks
from spectron_migrate.ledger.sqlite import drop_index
from spectron_migrate.records import Json

FACT_COLUMNS = (
    *("plan", "order_key", "lane", "selector", "run", "infer", "role", "category", "labels", "key", "state", "reason"),
)
"""How a fact is sent."""

INSERT_MEMORY = (
    "INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state, expires, moved_from)"
    " VALUES (?, ?, ?, ?, 1, ?, ?, ?)"
)
INSERT_VERSION = (
    "INSERT INTO version(id, mem0_id, number, text, digest, text_at, scan, recorded_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_FACT = f"INSERT INTO fact(id, message, {', '.join(FACT_COLUMNS)}) VALUES (?, ?, {marks(FACT_COLUMNS)})"

_MOST_ROWS = 1000
_MOST_BYTES = 1 << 22
"""The most bytes of records that are held back, because a text may be huge."""


class NewMemories:
    """Holds rows back until there are many.

    The index of planned facts is built at the end, because lanes come in any order: this takes a fraction of the time.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._memories: list[tuple[Json, ...]] = []
        self._versions: list[tuple[Json, ...]] = []
        self._facts: list[tuple[Json, ...]] = []
        self._bytes = 0
        self._index: str | None = None
        """The statement that rebuilds the index."""

    def add(self, memory: tuple[Json, ...], version: tuple[Json, ...], fact: tuple[Json, ...]) -> None:
        """Insert the rows now or later."""
        self._memories.append(memory)
        self._versions.append(version)
        self._facts.append(fact)
        self._bytes += len(memory[1])
        if len(self._memories) >= _MOST_ROWS or self._bytes >= _MOST_BYTES:
            self._index = self._index or drop_index(self._db, "fact_planned")
            self._flush()

    def finish(self) -> None:
        """Insert what was held back."""
        self._flush()
        if self._index is not None:
            self._db.execute(self._index)
            self._index = None

    def _flush(self) -> None:
        self._db.executemany(INSERT_MEMORY, self._memories)
        self._db.executemany(INSERT_VERSION, self._versions)
        self._db.executemany(INSERT_FACT, self._facts)
        self._memories.clear()
        self._versions.clear()
        self._facts.clear()
        self._bytes = 0
