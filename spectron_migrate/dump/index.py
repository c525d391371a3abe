"""Which ids a scan has seen, and where their lines lie: a small SQLite file, so that memory stays flat.

Rows are appended as they come and sorted by id once, when somebody asks: keeping a million random ids in
order all along costs more than everything else an export does.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spectron_migrate.records import Json, Memory

NOT_WRITTEN = -1
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;
CREATE TABLE seen (number INTEGER PRIMARY KEY, id BLOB, pass INTEGER, place INTEGER, record BLOB, text BLOB);
CREATE TABLE dead (place INTEGER PRIMARY KEY);
CREATE TABLE wanted (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE owner (kind TEXT, id BLOB, memories INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
_SELECT = "SELECT number, id, pass, place, record, text FROM seen"
_OWNERS = ("user", "agent", "run")
_OWNERS_HELD = 10_000
"""Owners whose counts are held in memory before they are written."""

HELD = 1 << 22
"""Bytes of lines that are held at once: texts may be huge."""

_LOOKED_UP = 500
_AT_ONCE = 250
"""Rows of one INSERT: fewer statements, and no more values than any SQLite takes."""


class Entry(NamedTuple):
    """One row of a scan: its id, and what tells it from another copy. (A tuple: there is one a row.)"""

    id: str
    line: bytes
    """As it goes into the dump; empty for a row that was filtered out or skipped."""
    text: bytes
    owners: tuple[str | None, str | None, str | None]

    @classmethod
    def of(cls, memory: Memory, line: bytes) -> Entry:
        """A memory and its line."""
        return cls(memory.id, line, text_digest(memory.memory), (memory.user_id, memory.agent_id, memory.run_id))

    @classmethod
    def unwritten(cls, memory_id: str) -> Entry:
        """A row that the store holds but that does not go into the dump."""
        return cls(memory_id, b"", b"", (None, None, None))


@dataclass(frozen=True, slots=True)
class Found:
    """What the index knows of one row."""

    number: int
    """Rows are numbered as they come."""
    id: str
    passed: int
    place: int
    record: bytes
    text: bytes

    @property
    def written(self) -> bool:
        """Its line is in the new file."""
        return self.place != NOT_WRITTEN


class SeenIndex:
    """The index of one scan."""

    def __init__(self, path: Path) -> None:
        """Make it at `path`, which must not exist."""
        path.touch(mode=0o600)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._is_sorted = False
        self._counted: Counter[tuple[str, str]] = Counter()

    def append(self, entries: Sequence[Entry], places: Sequence[int], number: int) -> None:
        """Rows of pass `number`, with the places of their lines."""
        if self._is_sorted:
            self._db.execute("DROP INDEX by_id")
            self._is_sorted = False
        self._db.execute("BEGIN")
        for begin in range(0, len(entries), _AT_ONCE):
            part = entries[begin : begin + _AT_ONCE]
            values: list[object] = []
            for entry, place in zip(part, places[begin : begin + _AT_ONCE], strict=True):
                values += (key(entry.id), number, place, record_digest(entry.line), entry.text)
            rows = ", ".join(["(?, ?, ?, ?, ?)"] * len(part))
            self._db.execute(f"INSERT INTO seen (id, pass, place, record, text) VALUES {rows}", values)
        self._db.execute("COMMIT")

    def sort(self) -> None:
        """From here on an id is found fast, until more rows are appended."""
        if not self._is_sorted:
            self._db.execute("CREATE INDEX by_id ON seen (id)")
            self._is_sorted = True

    def repeated(self) -> Iterator[list[Found]]:
        """For each id that came more than once, its rows in the order they came."""
        self.sort()
        self._db.execute("CREATE TEMP TABLE again AS SELECT id FROM seen GROUP BY id HAVING count(*) > 1")
        for (memory_id,) in self._db.execute("SELECT id FROM again"):
            rows = self._db.execute(f"{_SELECT} WHERE id = ? ORDER BY number", (memory_id,)).fetchall()
            yield [_found(row) for row in rows]
        self._db.execute("DROP TABLE again")

    def keep_only(self, kept: Found, dropped: Sequence[Found]) -> None:
        """Of the rows of one id this one counts, in the pass it was seen last; the others' lines are dead."""
        self._db.execute("UPDATE seen SET pass = ? WHERE number = ?", (kept.passed, kept.number))
        self._db.executemany("DELETE FROM seen WHERE number = ?", [(row.number,) for row in dropped])
        self._bury([row.place for row in dropped if row.written])

    def find(self, memory_id: str) -> Found | None:
        """What is known of an id; call `sort` first."""
        return self.find_all([memory_id]).get(memory_id)

    def find_all(self, memory_ids: Sequence[str]) -> dict[str, Found]:
        """What is known of these ids, at most 1,000; call `sort` first."""
        marks = ", ".join("?" * len(memory_ids))
        rows = self._db.execute(f"{_SELECT} WHERE id IN ({marks})", [key(one) for one in memory_ids])
        return {found.id: found for found in map(_found, rows)}

    def beside(
        self, lines: Iterable[tuple[bytes, Json]], advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[bytes, Json, Found | None]]:
        """Lines of another file, each with what is known of its memory; `advance` hears how many were looked at."""
        place = 0
        for portion in _portions(lines):
            ids = [row["id"] for _, row in portion]
            known = self._from_number(place, 2 * len(ids))
            known |= self.find_all([one for one in ids if one not in known])
            place = max((known[one].number + 1 for one in ids if one in known), default=place)
            for line, row in portion:
                yield line, row, known.get(row["id"])
            if advance is not None:
                advance(len(portion))

    def _from_number(self, first: int, count: int) -> dict[str, Found]:
        """Rows that came one after another. Stores list in the same order each time, so they are the ones sought:
        to look each up by its id costs more than all the rest where there are a million.
        """
        rows = self._db.execute(f"{_SELECT} WHERE number >= ? ORDER BY number LIMIT ?", (first, count))
        return {found.id: found for found in map(_found, rows)}

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

    def _bury(self, places: Sequence[int]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO dead VALUES (?)", [(place,) for place in places])

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
        for kind, ids in zip(_OWNERS, zip(*owners, strict=True), strict=True):
            for one, count in Counter(ids).items():
                if one is not None:
                    self._counted[kind, one] += sign * count
        if len(self._counted) > _OWNERS_HELD:
            self._write_owners()

    def _write_owners(self) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO owner VALUES (?, ?, ?) "
            "ON CONFLICT (kind, id) DO UPDATE SET memories = memories + excluded.memories",
            [(kind, key(one), count) for (kind, one), count in self._counted.items()],
        )
        self._db.execute("COMMIT")
        self._counted.clear()

    def owners(self, kind: str) -> int:
        """How many users, agents or runs have a memory."""
        self._write_owners()
        sql = "SELECT count(*) FROM owner WHERE kind = ? AND memories > 0"
        return int(self._db.execute(sql, (kind,)).fetchone()[0])

    def users(self) -> dict[str, int]:
        """Memories of each user."""
        self._write_owners()
        sql = "SELECT id, memories FROM owner WHERE kind = 'user' AND memories > 0 ORDER BY id"
        return {row[0].decode("utf-8", "surrogatepass"): row[1] for row in self._db.execute(sql)}

    def close(self) -> None:
        """Close and remove it."""
        self._db.close()
        self._path.unlink(missing_ok=True)


def _portions(lines: Iterable[tuple[bytes, Json]]) -> Iterator[list[tuple[bytes, Json]]]:
    """Lines with what they say, so many at a time, fewer where they are long."""
    portion: list[tuple[bytes, Json]] = []
    size = 0
    for line in lines:
        portion.append(line)
        size += len(line[0])
        if len(portion) == _LOOKED_UP or size >= HELD:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _found(row: tuple[int, bytes, int, int, bytes, bytes]) -> Found:
    number, memory_id, passed, place, record, text = row
    return Found(number, memory_id.decode("utf-8", "surrogatepass"), passed, place, record, text)


def key(memory_id: str) -> bytes:
    """An id as bytes, also where it holds half a surrogate pair, which SQLite's text refuses."""
    return memory_id.encode("utf-8", "surrogatepass")


def text_digest(text: str) -> bytes:
    """Equal for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def record_digest(line: bytes) -> bytes:
    """Equal for equal lines; empty for no line."""
    return hashlib.blake2b(line, digest_size=16).digest() if line else b""
