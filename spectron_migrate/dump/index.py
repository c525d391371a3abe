"""Which ids a scan has seen, and where their lines lie: a small SQLite file, so that memory stays flat."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spectron_migrate.records import Memory

NOT_WRITTEN = -1
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000;
CREATE TABLE seen (
    id BLOB PRIMARY KEY, pass INTEGER, place INTEGER, at TEXT, record BLOB, text BLOB
) WITHOUT ROWID;
CREATE TABLE dead (place INTEGER PRIMARY KEY);
CREATE TABLE wanted (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE owner (kind TEXT, id BLOB, memories INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
_OWNERS = ("user", "agent", "run")


class Entry(NamedTuple):
    """One row of a scan: its id, and what tells it from another copy. (A tuple: there is one a row.)"""

    id: bytes
    at: str
    """When the row last changed, as Mem0 says; empty where it does not."""
    line: bytes
    """As it goes into the dump; empty for a row that was filtered out or skipped."""
    text: bytes
    owners: tuple[str | None, str | None, str | None]

    @classmethod
    def of(cls, memory: Memory, line: bytes) -> Entry:
        """A memory and its line."""
        return cls(
            id=key(memory.id),
            at=memory.updated_at or memory.created_at or "",
            line=line,
            text=text_digest(memory.memory),
            owners=(memory.user_id, memory.agent_id, memory.run_id),
        )

    @classmethod
    def unwritten(cls, memory_id: str) -> Entry:
        """A row that the store holds but that does not go into the dump."""
        return cls(id=key(memory_id), at="", line=b"", text=b"", owners=(None, None, None))

    @property
    def record(self) -> bytes:
        """Equal for rows that are equal in everything."""
        return record_digest(self.line)


@dataclass(frozen=True, slots=True)
class Found:
    """What the index knows of an id."""

    passed: int
    place: int
    at: str
    record: bytes
    text: bytes

    @property
    def written(self) -> bool:
        """Its line is in the new file."""
        return self.place != NOT_WRITTEN


class SeenIndex:
    """The index of one scan; `number` counts passes over the store."""

    def __init__(self, path: Path) -> None:
        """Make it at `path`, which must not exist."""
        path.touch(mode=0o600)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_SCHEMA)

    def insert(self, entries: Sequence[Entry], places: Sequence[int], number: int) -> list[tuple[Entry, int]]:
        """Insert those whose id is new; the others come back, each with the place of its line."""
        before = self._db.total_changes
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
            [
                (entry.id, number, place, entry.at, entry.record, entry.text)
                for entry, place in zip(entries, places, strict=True)
            ],
        )
        self._db.execute("COMMIT")
        if self._db.total_changes - before == len(entries):
            return []
        return [
            (entry, place) for entry, place in zip(entries, places, strict=True) if not self._is(entry, place, number)
        ]

    def replace(self, entry: Entry, place: int, number: int) -> None:
        """The entry counts from now on instead of what was there."""
        values = (entry.id, number, place, entry.at, entry.record, entry.text)
        self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)", values)

    def touch(self, memory_id: bytes, number: int) -> None:
        """The same row came again in a later pass."""
        self._db.execute("UPDATE seen SET pass = ? WHERE id = ?", (number, memory_id))

    def find(self, memory_id: bytes) -> Found | None:
        """What is known of an id."""
        row = self._db.execute("SELECT pass, place, at, record, text FROM seen WHERE id = ?", (memory_id,)).fetchone()
        return None if row is None else Found(*row)

    def _is(self, entry: Entry, place: int, number: int) -> bool:
        found = self.find(entry.id)
        return found is not None and (found.place, found.passed) == (place, number)

    def seen(self, number: int) -> int:
        """How many ids a pass has given."""
        return int(self._db.execute("SELECT count(*) FROM seen WHERE pass = ?", (number,)).fetchone()[0])

    def written(self) -> int:
        """How many ids have a line."""
        return int(self._db.execute("SELECT count(*) FROM seen WHERE place >= 0").fetchone()[0])

    def forget_before(self, number: int) -> None:
        """Ids that a later pass did not find again are no longer in the store."""
        self._db.execute("INSERT OR IGNORE INTO dead SELECT place FROM seen WHERE pass < ? AND place >= 0", (number,))
        self._db.execute("DELETE FROM seen WHERE pass < ?", (number,))

    def bury(self, place: int) -> None:
        """The line at this place no longer counts."""
        self._db.execute("INSERT OR IGNORE INTO dead VALUES (?)", (place,))

    def dead(self) -> Iterator[int]:
        """Places of lines that do not count, in order."""
        return (row[0] for row in self._db.execute("SELECT place FROM dead ORDER BY place"))

    def want(self, memory_ids: Iterator[str]) -> None:
        """Take these ids whatever the filters say."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key(one),) for one in memory_ids))
        self._db.execute("COMMIT")

    def wants(self, memory_id: str) -> bool:
        """True for an id that `want` was told."""
        return self._db.execute("SELECT 1 FROM wanted WHERE id = ?", (key(memory_id),)).fetchone() is not None

    def count_owners(self, owners: Sequence[tuple[str | None, str | None, str | None]], sign: int = 1) -> None:
        """Add to (or take from) the memories of these users, agents and runs."""
        counts = [
            (kind, key(one), sign * count)
            for kind, ids in zip(_OWNERS, zip(*owners, strict=True), strict=True)
            for one, count in Counter(ids).items()
            if one is not None
        ]
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO owner VALUES (?, ?, ?) "
            "ON CONFLICT (kind, id) DO UPDATE SET memories = memories + excluded.memories",
            counts,
        )
        self._db.execute("COMMIT")

    def owners(self, kind: str) -> int:
        """How many users, agents or runs have a memory."""
        sql = "SELECT count(*) FROM owner WHERE kind = ? AND memories > 0"
        return int(self._db.execute(sql, (kind,)).fetchone()[0])

    def users(self) -> dict[str, int]:
        """Memories of each user."""
        sql = "SELECT id, memories FROM owner WHERE kind = 'user' AND memories > 0 ORDER BY id"
        return {row[0].decode("utf-8", "surrogatepass"): row[1] for row in self._db.execute(sql)}

    def close(self) -> None:
        """Close and remove it."""
        self._db.close()
        self._path.unlink(missing_ok=True)


def key(memory_id: str) -> bytes:
    """An id as bytes, also where it holds half a surrogate pair, which SQLite's text refuses."""
    return memory_id.encode("utf-8", "surrogatepass")


def text_digest(text: str) -> bytes:
    """Equal for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def record_digest(line: bytes) -> bytes:
    """Equal for equal lines; empty for no line."""
    return hashlib.blake2b(line, digest_size=16).digest() if line else b""
