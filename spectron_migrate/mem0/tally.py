"""Which ids were given already, on disk: a scan that must notice what it missed keeps no list in memory."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from spectron_migrate.records import Memory

OWNER_FIELDS = {"user": "user_id", "agent": "agent_id", "app": "app_id", "run": "run_id"}
_ASKED_AT_ONCE = 500
_HELD = 10_000


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

    def give(self, memories: Iterable[Memory]) -> set[str]:
        """Remember these, and whose they are; which of them were not known: a memory counts once."""
        fresh = {memory.id: memory for memory in memories}
        fresh = {memory_id: fresh[memory_id] for memory_id in self.unseen(fresh)}
        self.add(list(fresh))
        owners = Counter(
            (kind, _key(owner))
            for memory in fresh.values()
            for kind, field in OWNER_FIELDS.items()
            if (owner := getattr(memory, field)) is not None
        )
        sql = "INSERT INTO owner VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET rows = rows + excluded.rows"
        self._db.execute("BEGIN")
        self._db.executemany(sql, [(*owner, rows) for owner, rows in owners.items()])
        self._db.execute("COMMIT")
        return set(fresh)

    def unseen(self, memory_ids: Iterable[str]) -> list[str]:
        """Those that were never given."""
        wanted = {_key(one): one for one in memory_ids}
        keys = list(wanted)
        for begin in range(0, len(keys), _ASKED_AT_ONCE):
            part = keys[begin : begin + _ASKED_AT_ONCE]
            marks = ", ".join("?" * len(part))
            for (known,) in self._db.execute(f"SELECT id FROM seen WHERE id IN ({marks})", part).fetchall():
                del wanted[known]
        return list(wanted.values())

    def count(self) -> int:
        """How many ids were given."""
        return int(self._db.execute("SELECT count(*) FROM seen").fetchone()[0])

    def ids(self) -> Iterator[str]:
        """All of them."""
        for (memory_id,) in self._db.execute("SELECT id FROM seen"):
            yield memory_id.decode("utf-8", "surrogatepass")

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


class Ids:
    """How many different ids there were: in memory while they are few."""

    def __init__(self) -> None:
        """Start with none."""
        self._held: set[str] = set()
        self._rest: Tally | None = None

    def add(self, ids: Sequence[str]) -> None:
        """Remember these."""
        if self._rest is not None:
            self._rest.add(ids)
            return
        self._held.update(ids)
        if len(self._held) > _HELD:
            self._rest = Tally()
            self._rest.add(list(self._held))
            self._held = set()

    def count(self) -> int:
        """How many different ones."""
        return len(self._held) if self._rest is None else self._rest.count()

    def close(self) -> None:
        """Forget them; others may be added then."""
        self._held.clear()
        if self._rest is not None:
            self._rest.close()
            self._rest = None


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
