"""Counts by key in a scratch ledger, so that memory use does not grow with the number of keys."""

from __future__ import annotations

from spectron_migrate.ledger.ledger import Ledger


class ScratchCounts:
    """Counts how often each key was added, in a table that only this connection sees."""

    def __init__(self, ledger: Ledger) -> None:
        """Make the table."""
        self._db = ledger.db
        self._db.execute("CREATE TEMP TABLE scratch_count(kind TEXT, word TEXT, n INTEGER, PRIMARY KEY (kind, word))")

    def add(self, kind: str, key: str) -> int:
        """Count one more; returns the count of this key."""
        row = self._db.execute(
            "INSERT INTO scratch_count(kind, word, n) VALUES (?, ?, 1)"
            " ON CONFLICT(kind, word) DO UPDATE SET n = scratch_count.n + 1 RETURNING n",
            (kind, key),
        ).fetchone()
        return int(row["n"])

    def keys_with(self, kind: str, least: int) -> int:
        """How many keys were added `least` times or more."""
        row = self._db.execute("SELECT count(*) FROM scratch_count WHERE kind = ? AND n >= ?", (kind, least))
        return int(row.fetchone()[0])

    def most(self, kind: str) -> int:
        """The highest count of a key; 0 if there is none."""
        row = self._db.execute("SELECT coalesce(max(n), 0) FROM scratch_count WHERE kind = ?", (kind,))
        return int(row.fetchone()[0])
