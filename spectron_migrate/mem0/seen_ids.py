"""Ids that a scan has read, kept on disk, so that a scan notices what it missed without holding all ids in memory."""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from spectron_migrate.records import Memory, from_bytes, to_bytes

OWNER_FIELDS = {"user": "user_id", "agent": "agent_id", "app": "app_id", "run": "run_id"}
_LOOKUP_BATCH = 500
_FEW = 100_000
"""Up to this many numbers, a set takes no more room than loading the library that does without one."""
_MOST_IN_MEMORY = 10_000
_MOST_HASHES = 250_000
"""The most hashes of ids that are kept in a set, about 20 MB."""


def count_different(numbers: array[int]) -> int:
    """How many different numbers there are."""
    if len(numbers) <= _FEW:
        return len(set(numbers))
    import numpy  # importing it takes a tenth of a second, and 20 MB

    found = numpy.sort(numpy.frombuffer(numbers, dtype=numpy.int64))
    return 1 + int((found[1:] != found[:-1]).sum())


class SeenIds:
    """The ids a scan has read, and how many of its memories belong to each owner."""

    def __init__(self) -> None:
        """Use a temporary file without a name, which ends with the process."""
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;"
            "CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE owner (kind TEXT, id BLOB, rows INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;"
        )

    def add(self, memory_ids: Sequence[str]) -> None:
        """Record these ids."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", [(to_bytes(one),) for one in memory_ids])
        self._db.execute("COMMIT")

    def add_memories(self, memories: Iterable[Memory]) -> set[str]:
        """Record these memories and their owners; returns the ids that were new. A memory counts once."""
        fresh = {memory.id: memory for memory in memories}
        fresh = {memory_id: fresh[memory_id] for memory_id in self.not_seen(fresh)}
        self.add(list(fresh))
        owners = Counter(
            (kind, to_bytes(owner))
            for memory in fresh.values()
            for kind, field in OWNER_FIELDS.items()
            if (owner := getattr(memory, field)) is not None
        )
        sql = "INSERT INTO owner VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET rows = rows + excluded.rows"
        self._db.execute("BEGIN")
        self._db.executemany(sql, [(*owner, rows) for owner, rows in owners.items()])
        self._db.execute("COMMIT")
        return set(fresh)

    def not_seen(self, memory_ids: Iterable[str]) -> list[str]:
        """Those of these ids that were not recorded."""
        wanted = {to_bytes(one): one for one in memory_ids}
        keys = list(wanted)
        for begin in range(0, len(keys), _LOOKUP_BATCH):
            part = keys[begin : begin + _LOOKUP_BATCH]
            marks = ", ".join("?" * len(part))
            for (known,) in self._db.execute(f"SELECT id FROM seen WHERE id IN ({marks})", part).fetchall():
                del wanted[known]
        return list(wanted.values())

    def count(self) -> int:
        """How many ids were recorded."""
        return int(self._db.execute("SELECT count(*) FROM seen").fetchone()[0])

    def ids(self) -> Iterator[str]:
        """All recorded ids."""
        for (memory_id,) in self._db.execute("SELECT id FROM seen"):
            yield from_bytes(memory_id)

    def owner_count(self, kind: str) -> int:
        """How many different users, agents, apps or runs (`kind`) have a memory."""
        return int(self._db.execute("SELECT count(*) FROM owner WHERE kind = ?", (kind,)).fetchone()[0])

    def row_count_of(self, kind: str, owner: str) -> int:
        """How many memories an owner has."""
        sql = "SELECT rows FROM owner WHERE kind = ? AND id = ?"
        found = self._db.execute(sql, (kind, to_bytes(owner))).fetchone()
        return 0 if found is None else int(found[0])

    def clear(self) -> None:
        """Remove all ids and owners."""
        self._db.executescript("DELETE FROM seen; DELETE FROM owner;")

    def close(self) -> None:
        """Close and remove the file."""
        self._db.close()


class DistinctIds:
    """Counts different ids: in memory while they are few, then on disk."""

    def __init__(self) -> None:
        self._in_memory: set[str] = set()
        self._on_disk: SeenIds | None = None

    def add(self, ids: Sequence[str]) -> None:
        """Add these ids."""
        if self._on_disk is not None:
            self._on_disk.add(ids)
            return
        self._in_memory.update(ids)
        if len(self._in_memory) > _MOST_IN_MEMORY:
            self._on_disk = SeenIds()
            self._on_disk.add(list(self._in_memory))
            self._in_memory = set()

    def count(self) -> int:
        """How many different ids were added."""
        return len(self._in_memory) if self._on_disk is None else self._on_disk.count()

    def ids(self) -> Iterator[str]:
        """All ids."""
        return iter(self._in_memory) if self._on_disk is None else self._on_disk.ids()

    def close(self) -> None:
        """Remove all ids; more may be added afterwards."""
        self._in_memory.clear()
        if self._on_disk is not None:
            self._on_disk.close()
            self._on_disk = None


class NumberSet:
    """A growing set of 64-bit numbers: the latest ones in a set, all others in a sorted array, 8 bytes each."""

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._sorted: Any = None

    def add(self, numbers: Collection[int]) -> None:
        """Add these numbers, none of which is there."""
        self._latest.update(numbers)
        if len(self._latest) <= _MOST_HASHES:
            return
        import numpy  # takes a tenth of a second, and 20 MB

        latest = numpy.fromiter(self._latest, numpy.int64, len(self._latest))
        self._sorted = numpy.sort(latest if self._sorted is None else numpy.concatenate((self._sorted, latest)))
        self._latest = set()

    def among(self, numbers: Collection[int]) -> set[int]:
        """Those of these numbers that are there."""
        found = self._latest.intersection(numbers)
        if self._sorted is not None:
            import numpy

            asked = numpy.fromiter(numbers, numpy.int64, len(numbers))
            places = numpy.searchsorted(self._sorted, asked)
            found.update(asked[self._sorted.take(places, mode="clip") == asked].tolist())
        return found


class SeenMemories:
    """How many different memories were read, and how many of them belong to each owner.

    Ids are kept as 64-bit hashes. The chance that two of a million ids have the same one is 1 in 30 million.
    """

    def __init__(self) -> None:
        self._ids = NumberSet()
        self._count = 0
        self._owners: Counter[tuple[str, str]] = Counter()
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
            "CREATE TABLE owner (kind TEXT, id BLOB, rows INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;"
        )

    def add(self, memories: Sequence[Memory]) -> None:
        """Record these memories and their owners; a memory counts once."""
        new = {hash(memory.id): memory for memory in memories}
        for known in self._ids.among(new):
            del new[known]
        self._ids.add(new)
        self._count += len(new)
        for kind, field in OWNER_FIELDS.items():
            for owner, rows in Counter(map(attrgetter(field), new.values())).items():
                if owner is not None:
                    self._owners[kind, owner] += rows
        if len(self._owners) > _MOST_IN_MEMORY:
            self._write_owners()

    def count(self) -> int:
        """How many different memories were recorded."""
        return self._count

    def not_seen(self, memory_ids: Iterable[str]) -> list[str]:
        """Those of these ids that were not recorded."""
        wanted = {hash(one): one for one in memory_ids}
        known = self._ids.among(wanted)
        return [one for number, one in wanted.items() if number not in known]

    def owners_with(self, sizes: Sequence[int]) -> list[tuple[str, str, int]]:
        """Kind, id and number of memories of the owners that have exactly one of these numbers of memories."""
        self._write_owners()
        marks = ", ".join("?" * len(sizes))
        sql = f"SELECT kind, id, rows FROM owner WHERE rows IN ({marks}) ORDER BY kind, id"
        return [(kind, from_bytes(owner), rows) for kind, owner, rows in self._db.execute(sql, sizes)]

    def close(self) -> None:
        """Forget all of them."""
        self._db.close()

    def _write_owners(self) -> None:
        sql = "INSERT INTO owner VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET rows = rows + excluded.rows"
        self._db.execute("BEGIN")
        self._db.executemany(sql, [(kind, to_bytes(one), rows) for (kind, one), rows in self._owners.items()])
        self._db.execute("COMMIT")
        self._owners.clear()
