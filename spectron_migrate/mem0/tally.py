"""Which ids were given already, on disk: a scan that must notice what it missed keeps no list in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence


class Tally:
    """Ids, and how many of each kind of owner they belong to."""

    def __init__(self) -> None:
        """Make it in a file without a name, which ends with the process."""
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;"
            "CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE owner (kind TEXT, id BLOB, rows INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;"
        )

    def add(self, memory_ids: Sequence[str]) -> None:
        """Remember these ids."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", [(_key(one),) for one in memory_ids])
        self._db.execute("COMMIT")

    def is_new(self, memory_id: str) -> bool:
        """Remember the id; True where it was not known."""
        before = self._db.total_changes
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_key(memory_id),))
        return self._db.total_changes > before

    def unseen(self, memory_ids: Iterable[str]) -> list[str]:
        """Those that were never given."""
        sql = "SELECT 1 FROM seen WHERE id = ?"
        return [one for one in memory_ids if self._db.execute(sql, (_key(one),)).fetchone() is None]

    def count(self) -> int:
        """How many ids were given."""
        return int(self._db.execute("SELECT count(*) FROM seen").fetchone()[0])

    def ids(self) -> Iterator[str]:
        """All of them."""
        for (memory_id,) in self._db.execute("SELECT id FROM seen"):
            yield memory_id.decode("utf-8", "surrogatepass")

    def belongs(self, kind: str, owner: str) -> None:
        """One more row of this user, agent, app or run."""
        sql = "INSERT INTO owner VALUES (?, ?, 1) ON CONFLICT (kind, id) DO UPDATE SET rows = rows + 1"
        self._db.execute(sql, (kind, _key(owner)))

    def owners(self, kind: str) -> int:
        """How many users, agents, apps or runs had a row."""
        return int(self._db.execute("SELECT count(*) FROM owner WHERE kind = ?", (kind,)).fetchone()[0])

    def rows_of(self, kind: str, owner: str) -> int:
        """How many rows one of them had."""
        sql = "SELECT rows FROM owner WHERE kind = ? AND id = ?"
        found = self._db.execute(sql, (kind, _key(owner))).fetchone()
        return 0 if found is None else int(found[0])

    def clear(self) -> None:
        """Begin anew."""
        self._db.executescript("DELETE FROM seen; DELETE FROM owner;")

    def close(self) -> None:
        """Remove it."""
        self._db.close()


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
