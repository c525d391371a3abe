"""Decides which memories of a scan go into its dump: those that filters and `since` admit, and some others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from spectron_migrate.dump.index import text_digest
from spectron_migrate.records import Filters, Memory, to_bytes

_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;
CREATE TABLE of_owner (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE known (id BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID;
"""


class Admission:
    """The limits of one scan, and what the old dump says of its memories.

    A memory whose owner changed is admitted for its old owner too. A memory that did not change since `since` is
    admitted if the old dump has another text of it, because some writers of Mem0 do not change `updated_at`.
    """

    def __init__(self, filters: Filters, since: str | None) -> None:
        """`since`: a time as `format_time` writes it."""
        self._filters = filters
        self._since = since
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file without a name
        self._db.executescript(_SCHEMA)

    def learn(self, memories: Iterable[Memory], deleted: Iterable[str]) -> None:
        """Learn from the old dump: its memories, and the ids under a tombstone."""
        if not self._filters and self._since is None:
            return
        self._db.execute("BEGIN")
        for memory in memories:
            if self._filters and self._filters.admits(memory):
                self._db.execute("INSERT OR IGNORE INTO of_owner VALUES (?)", (to_bytes(memory.id),))
            if self._since is not None:
                row = (to_bytes(memory.id), _text_and_hash(memory))
                self._db.execute("INSERT OR IGNORE INTO known VALUES (?, ?)", row)
        self._db.executemany("INSERT OR IGNORE INTO of_owner VALUES (?)", ((to_bytes(one),) for one in deleted))
        self._db.execute("COMMIT")

    def admits(self, memory: Memory) -> bool:
        """Whether the memory goes into the dump."""
        if self._since is not None and (memory.updated_at or memory.created_at or self._since) < self._since:
            found = self._find("SELECT text FROM known WHERE id = ?", memory)
            if found is None or found[0] == _text_and_hash(memory):
                return False
        return (
            not self._filters
            or self._filters.admits(memory)
            or self._find("SELECT 1 FROM of_owner WHERE id = ?", memory) is not None
        )

    def close(self) -> None:
        """Forget what was learned."""
        self._db.close()

    def _find(self, sql: str, memory: Memory) -> tuple[bytes] | None:
        found: tuple[bytes] | None = self._db.execute(sql, (to_bytes(memory.id),)).fetchone()
        return found


def _text_and_hash(memory: Memory) -> bytes:
    return text_digest(f"{memory.hash or ''}\n{memory.memory}")
