"""Which ids a scan has seen, and at which file offsets their lines are: a small SQLite file, so memory use stays flat.

Rows are appended as they come, packed a batch at a time. When they are first needed by id, they are unpacked into a
table with one row for each, and the index by id is built. Most scans never need that, and for a million random ids it
costs more than everything else in an export.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from spectron_migrate.fast_json import loads
from spectron_migrate.mem0.seen_ids import count_different
from spectron_migrate.records import Json, Memory, from_bytes, to_bytes

NOT_WRITTEN = -1
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;
CREATE TABLE seen (
  number INTEGER PRIMARY KEY, id BLOB, pass INTEGER, offset INTEGER, record BLOB, text BLOB
);
CREATE TABLE appended (
  number INTEGER PRIMARY KEY, pass INTEGER, offset INTEGER, rows INTEGER, written INTEGER,
  ids TEXT, sizes BLOB, records BLOB, texts BLOB
);
CREATE TABLE dead (offset INTEGER PRIMARY KEY);
CREATE TABLE owner (kind TEXT, id BLOB, memories INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""
_SELECT = "SELECT number, id, pass, offset, record, text FROM seen"
_OWNERS = ("user", "agent", "run")
_OWNERS_IN_MEMORY = 10_000
"""The most owners whose counts are kept in memory before they are written to the file."""

_BATCH = 250
"""How many rows are held in memory at once: a thousand no longer fit into the processor's cache."""

BATCH_BYTES = 1 << 20
"""The most bytes of lines held in memory at once, because a text may be huge."""

_LOOKUP_BATCH = 500
_MOST_HASHES = 8_000_000
"""Up to this many rows, ids that came twice are searched for in memory: 16 bytes for each row."""
_RECORD_SIZE, _TEXT_SIZE = 16, 8
"""The size in bytes of the digest of a line, and of its text."""

_owners_of = attrgetter("user_id", "agent_id", "run_id")
_times_of = attrgetter("created_at", "updated_at")


class Batch:
    """Rows of a scan that are written together, so that what is needed of them is extracted for all at once."""

    __slots__ = ("ids", "lines", "memories", "size")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.lines: list[bytes] = []
        """The lines for the dump; empty for a row that was filtered out or skipped."""
        self.memories: list[Memory] = []
        """The memories of the rows with a line."""
        self.size = 0
        """The size of all lines in bytes."""

    def add(self, memory: Memory, line: bytes) -> None:
        """Add a row that goes into the dump."""
        self.ids.append(memory.id)
        self.lines.append(line)
        self.memories.append(memory)
        self.size += len(line)

    def add_unwritten(self, memory_id: str) -> None:
        """Add a row that the store holds but that is not written to the dump."""
        self.ids.append(memory_id)
        self.lines.append(b"")

    @property
    def is_full(self) -> bool:
        """Whether the batch should be written now."""
        return len(self.ids) >= _BATCH or self.size >= BATCH_BYTES

    @property
    def owners(self) -> list[tuple[str | None, str | None, str | None]]:
        """User, agent and run of each memory."""
        return list(map(_owners_of, self.memories))

    @property
    def times(self) -> list[tuple[str | None, str | None]]:
        """When each memory was created and last changed."""
        return list(map(_times_of, self.memories))


class SeenRow(NamedTuple):
    """One row of the scan, as the index recorded it."""

    number: int
    """The row's number, in the order in which rows came."""
    id: str
    pass_number: int
    offset: int
    record: bytes
    text: bytes

    @property
    def written(self) -> bool:
        """Whether its line is in the new file."""
        return self.offset != NOT_WRITTEN


class SeenIndex:
    """The index of one scan."""

    def __init__(self, path: Path, *, compares: bool) -> None:
        """Create it at `path`, which must not exist.

        `compares`: whether the rows will be compared with another dump's.
        """
        path.touch(mode=0o600)
        self._path = path
        self._compares = compares
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._is_unpacked = self._is_sorted = False
        self._hashes = array("q")
        """Hashes of the ids of all rows that were ever appended."""
        self._counted: dict[str, Counter[str | None]] = {kind: Counter() for kind in _OWNERS}

    def append(self, batch: Batch, offset: int, number: int) -> None:
        """Record rows of pass `number`, at least one; their lines are in the file, in order, from `offset` on."""
        first = len(self._hashes)
        self._hashes.extend(map(hash, batch.ids))
        records = texts = b""
        if self._compares:
            records = b"".join(map(record_digest, batch.lines))
            texts = b"".join([text_digest(memory.memory) for memory in batch.memories])
        self._db.execute(
            "INSERT INTO appended VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(first, number, offset, len(batch.ids), len(batch.memories)),
                *(json.dumps(batch.ids), array("Q", map(len, batch.lines)), records, texts),
            ),
        )
        self._is_unpacked = False

    def _unpack(self) -> None:
        """Unpack the appended batches into rows."""
        if self._is_unpacked:
            return
        if self._is_sorted:
            self._db.execute("DROP INDEX by_id")
            self._is_sorted = False
        self._db.execute("BEGIN")
        while batch := self._db.execute("SELECT * FROM appended ORDER BY number LIMIT 1").fetchone():
            rows = ((row.number, to_bytes(row.id), *row[2:]) for row in _unpacked(*batch))
            self._db.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("DELETE FROM appended WHERE number = ?", batch[:1])
        self._db.execute("COMMIT")
        self._is_unpacked = True

    def sort(self) -> None:
        """Build the index by id, which lasts until more rows are appended."""
        self._unpack()
        if not self._is_sorted:
            self._db.execute("CREATE INDEX by_id ON seen (id)")
            self._is_sorted = True

    def repeated(self) -> Iterator[list[SeenRow]]:
        """The rows of each id that came more than once, in the order they came."""
        if len(self._hashes) <= _MOST_HASHES and count_different(self._hashes) == len(self._hashes):
            return
        self.sort()
        self._db.execute("CREATE TEMP TABLE again AS SELECT id FROM seen GROUP BY id HAVING count(*) > 1")
        for (memory_id,) in self._db.execute("SELECT id FROM again"):
            rows = self._db.execute(f"{_SELECT} WHERE id = ? ORDER BY number", (memory_id,)).fetchall()
            yield [_seen_row(row) for row in rows]
        self._db.execute("DROP TABLE again")

    def keep_only(self, kept: SeenRow, dropped: Sequence[SeenRow]) -> None:
        """Keep one of the rows of an id, with the pass in which it was last seen.

        The lines of the others become dead.
        """
        self._db.execute("UPDATE seen SET pass = ? WHERE number = ?", (kept.pass_number, kept.number))
        self._db.executemany("DELETE FROM seen WHERE number = ?", [(row.number,) for row in dropped])
        self._mark_dead([row.offset for row in dropped if row.written])

    def find(self, memory_id: str) -> SeenRow | None:
        """The row of an id."""
        return self.find_all([memory_id]).get(memory_id)

    def find_all(self, memory_ids: Sequence[str]) -> dict[str, SeenRow]:
        """The rows of these ids, at most 1,000."""
        if not memory_ids:
            return {}
        self.sort()
        marks = ", ".join("?" * len(memory_ids))
        rows = self._db.execute(f"{_SELECT} WHERE id IN ({marks})", [to_bytes(one) for one in memory_ids])
        return {found.id: found for found in map(_seen_row, rows)}

    def move(self, offsets: Mapping[str, int | None]) -> None:
        """Where the lines of these ids begin now; None: an id is no longer there."""
        self.sort()
        self._db.execute("BEGIN")
        self._db.executemany("DELETE FROM seen WHERE id = ?", ((to_bytes(one),) for one in sorted(offsets)))
        rows = ((to_bytes(one), offset) for one, offset in offsets.items() if offset is not None)
        self._db.executemany("INSERT INTO seen VALUES (NULL, ?, 0, ?, x'', x'')", rows)
        self._db.execute("COMMIT")

    def beside(
        self, lines: Iterable[bytes], advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[bytes, SeenRow | None, Json]]:
        """Lines of another file, each with the row of the same id, if any.

        A line is decoded unless the row's line is equal.

        `advance` gets the number of lines read.
        """
        near: list[SeenRow] = []
        next_number = unread = 0
        for batch in _batches(lines):
            near = [row for row in near if row.number >= next_number]
            near += self._from_number(max(unread, next_number), max(0, 2 * len(batch) - len(near)))
            unread = near[-1].number + 1 if near else unread
            equal = {row.record: row for row in near if row.written}
            found = [equal.get(record_digest(line)) for line in batch]
            decoded = {at: loads(line) for at, line in enumerate(batch) if found[at] is None}
            known = {row.id: row for row in near} if decoded else {}
            known |= self.find_all([row["id"] for row in decoded.values() if row["id"] not in known])
            for at, row in decoded.items():
                found[at] = known.get(row["id"])
            next_number = max((row.number + 1 for row in found if row is not None), default=next_number)
            for at, (line, seen) in enumerate(zip(batch, found, strict=True)):
                yield line, seen, decoded.get(at)
            if advance is not None:
                advance(len(batch))

    def _from_number(self, first: int, count: int) -> list[SeenRow]:
        """Rows by number, from `first` on; at least `count`, if there are that many.

        Stores list in the same order each time, so these usually are the rows that are needed. Looking up a million
        rows by id costs more than all the rest of an export.
        """
        rows = self._db.execute(f"{_SELECT} WHERE number >= ? ORDER BY number LIMIT ?", (first, count))
        found = [_seen_row(row) for row in rows]
        batches = self._db.execute(
            "SELECT * FROM appended WHERE number >="
            " (SELECT coalesce(max(number), 0) FROM appended WHERE number <= ?) ORDER BY number",
            (first,),
        )
        while len(found) < count and (batch := batches.fetchone()):
            found += [row for row in _unpacked(*batch) if row.number >= first]
        return found

    def seen(self, number: int) -> int:
        """How many ids were seen in a pass."""
        sql = (
            "SELECT (SELECT count(*) FROM seen WHERE pass = ?1)"
            " + (SELECT coalesce(sum(rows), 0) FROM appended WHERE pass = ?1)"
        )
        return int(self._db.execute(sql, (number,)).fetchone()[0])

    def written(self) -> int:
        """How many ids have a line in the new file."""
        sql = "SELECT (SELECT count(*) FROM seen WHERE offset >= 0) + (SELECT coalesce(sum(written), 0) FROM appended)"
        return int(self._db.execute(sql).fetchone()[0])

    def forget_before(self, number: int) -> None:
        """Drop ids that were last seen before pass `number` (from 1), because they are no longer in the store."""
        if number == 1:
            return
        self._unpack()
        self._db.execute("INSERT OR IGNORE INTO dead SELECT offset FROM seen WHERE pass < ? AND offset >= 0", (number,))
        self._db.execute("DELETE FROM seen WHERE pass < ?", (number,))

    def not_among(self, numbers: bytearray) -> Iterator[str]:
        """Ids with a line whose number is 0 in `numbers`, or beyond its end."""
        first = 0
        while rows := self._from_number(first, _LOOKUP_BATCH):
            for row in rows:
                if row.written and (row.number >= len(numbers) or not numbers[row.number]):
                    yield row.id
            first = rows[-1].number + 1

    def _mark_dead(self, offsets: Sequence[int]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO dead VALUES (?)", [(offset,) for offset in offsets])

    def dead(self) -> Iterator[int]:
        """Offsets of dead lines, ascending."""
        return (row[0] for row in self._db.execute("SELECT offset FROM dead ORDER BY offset"))

    def count_owners(self, owners: Sequence[tuple[str | None, str | None, str | None]], sign: int = 1) -> None:
        """Add these memories to the counts of their users, agents and runs; with `sign` -1, subtract them."""
        for (_, counted), ids in zip(self._counted.items(), zip(*owners, strict=True), strict=False):
            if sign > 0:
                counted.update(ids)
            else:
                counted.subtract(ids)
            counted.pop(None, None)
        if sum(map(len, self._counted.values())) > _OWNERS_IN_MEMORY:
            self._write_owners()

    def _write_owners(self) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO owner VALUES (?, ?, ?) "
            "ON CONFLICT (kind, id) DO UPDATE SET memories = memories + excluded.memories",
            [
                (kind, to_bytes(one), count)
                for kind, counted in self._counted.items()
                for one, count in counted.items()
                if one is not None
            ],
        )
        self._db.execute("COMMIT")
        for counted in self._counted.values():
            counted.clear()

    def owners(self, kind: str) -> int:
        """How many different users, agents or runs (`kind`) have a memory."""
        self._write_owners()
        sql = "SELECT count(*) FROM owner WHERE kind = ? AND memories > 0"
        return int(self._db.execute(sql, (kind,)).fetchone()[0])

    def users_among(self, users: Iterable[str]) -> dict[str, int]:
        """How many memories each of these users has."""
        self._write_owners()
        sql = "SELECT coalesce(max(memories), 0) FROM owner WHERE kind = 'user' AND id = ?"
        return {user: self._db.execute(sql, (to_bytes(user),)).fetchone()[0] for user in users}

    def users(self) -> dict[str, int]:
        """How many memories each user has."""
        self._write_owners()
        sql = "SELECT id, memories FROM owner WHERE kind = 'user' AND memories > 0 ORDER BY id"
        return {from_bytes(row[0]): row[1] for row in self._db.execute(sql)}

    def hide(self) -> None:
        """Remove the file's name, so that the file ends with the process."""
        with suppress(OSError):  # if an open file cannot be removed, `close` removes it
            self._path.unlink()

    def close(self) -> None:
        """Close and remove it."""
        self._db.close()
        self._path.unlink(missing_ok=True)


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Batches of lines, smaller if the lines are long."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) == _LOOKUP_BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _unpacked(
    number: int,
    pass_number: int,
    offset: int,
    _rows: int,
    _written: int,
    ids: str,
    sizes: bytes,
    records: bytes,
    texts: bytes,
) -> Iterator[SeenRow]:
    """The rows of a batch."""
    written = 0
    for row_number, (memory_id, size) in enumerate(zip(json.loads(ids), array("Q", sizes), strict=True), number):
        if not size:
            yield SeenRow(row_number, memory_id, pass_number, NOT_WRITTEN, b"", b"")
            continue
        record = records[written * _RECORD_SIZE : (written + 1) * _RECORD_SIZE]
        text = texts[written * _TEXT_SIZE : (written + 1) * _TEXT_SIZE]
        yield SeenRow(row_number, memory_id, pass_number, offset, record, text)
        offset, written = offset + size, written + 1


def _seen_row(row: tuple[int, bytes, int, int, bytes, bytes]) -> SeenRow:
    number, memory_id, pass_number, offset, record, text = row
    return SeenRow(number, from_bytes(memory_id), pass_number, offset, record, text)


def text_digest(text: str) -> bytes:
    """A short digest, equal for equal texts."""
    return hashlib.blake2b(to_bytes(text), digest_size=_TEXT_SIZE).digest()


def record_digest(line: bytes) -> bytes:
    """A digest, equal for equal lines; empty for an empty line."""
    return hashlib.blake2b(line, digest_size=_RECORD_SIZE).digest() if line else b""
