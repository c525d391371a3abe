"""Finds what changed in an embedded Qdrant since it was read in full: rows after the last one, and deleted rows.

Every version of the client writes a point with `INSERT OR REPLACE`, which gives it a new rowid, one more than the
greatest so far. So a written row has a greater rowid than all others, and the old row of its point is gone. There is
one exception: if the last rows are deleted, the next ones get their numbers again. The newest rows of the last reading
show that: below one of them that is unchanged, no number was given twice.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import Changed
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.stores.qdrant_pickle import UUID_TEXT, UnreadablePoint, read_point
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb, identity, is_later_state, is_wal
from spectron_migrate.records import Memory

NEWEST = 64
"""How many of the newest rows are compared."""
MOST_CHANGED = 50_000
"""If more rows than this changed, everything is read."""
MOST_BYTES = 32 << 20
"""Also if they are larger than this in bytes, because Mem0 cannot write while rows are read."""
_MOST_ROWIDS = 1 << 28
"""A store in which more numbers than this were ever given is read in full, because each number needs a byte."""
KEY_LENGTH = 68
KEY_START = 17
"""The common start of all keys of UUIDs has this many characters. It names the version of the pickle."""
_KEY = re.compile("gA[SW]VKAAAAAAAAACMJ")


@dataclass(frozen=True, slots=True)
class Listing:
    """All rows of a collection, as of one moment."""

    rowids: array[int]
    """All rowids, ascending."""
    ids: bytes
    """The UUIDs of their memories, 16 bytes each."""
    newest: dict[int, bytes]
    """Digests of the newest rows by rowid."""
    keys: str
    """What all keys begin with. A point that is written with another key would have two rows."""


class NewestRows:
    """Keeps the newest rows of a reading."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Any, ...]] = {}

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows of rowid, key and point, ascending. A later reading of a row counts."""
        self._rows |= {row[0]: row for row in rows[-NEWEST:]}
        if len(self._rows) > NEWEST:
            self._rows = {rowid: self._rows[rowid] for rowid in sorted(self._rows)[-NEWEST:]}

    def among(self, rowids: array[int]) -> dict[int, bytes]:
        """The digests of the newest rows that are among these."""
        newest = set(rowids[-NEWEST:])
        return {rowid: _digest(row) for rowid, row in self._rows.items() if rowid in newest}


class QdrantChanges:
    """Reads what changed in one collection."""

    def __init__(
        self,
        file: Path,
        find: Callable[[], Path],
        listing: Listing,
        history: HistoryFile | None,
        *,
        identity: tuple[int, int, int] | None,
        schema: int,
    ) -> None:
        """`listing`: what the last reading of everything saw; `history` is taken over.

        `find`: returns the current file of the collection, because an alias may be given to another one. `identity` and
        `schema`: of the file, before that reading.
        """
        self.history = history
        self._file = file
        self._find = find
        self._listing = listing
        self._identity = identity
        self._schema = schema

    def changed(self, *, now: datetime) -> Changed | None:
        """See `ChangesReader.changed`. Reads only points that changed, and the newest ones from before."""
        if self._found() != self._file:
            return None
        before = identity(self._file)
        if not is_later_state(before, self._identity) or is_wal(self._file):
            return None
        retimed = self.history.changed() if self.history is not None else frozenset()
        if retimed is None:
            return None
        with ReadOnlyDb(self._file) as db, db.snapshot():
            found = self._read(db)
        if found is None or not is_later_state(identity(self._file), before) or self._found() != self._file:
            return None
        rows, kept, count = found
        memories = self._memories(rows, now)
        if memories is None:
            return None
        written = {memory.id for memory in memories}
        gone = [each for each in self._without(kept) if each not in written]
        self._identity = before
        self._listing = self._next(rows, memories, kept)
        return Changed(memories, gone, retimed, count)

    def close(self) -> None:
        """Close the history."""
        if self.history is not None:
            self.history.close()

    def _found(self) -> Path | None:
        try:
            return self._find()
        except InputError:  # the collection is gone, which a reading of everything reports
            return None

    def _memories(self, rows: Iterable[tuple[Any, ...]], now: datetime) -> list[Memory] | None:
        """The memories of rows.

        None if a row is no memory with a UUID, or has a key of another form; only a reading of everything can handle
        those.
        """
        memories: list[Memory] = []
        keys = self._listing.keys
        for _, key, blob in rows:
            keys = keys or common_key_start([key])
            if not keys or len(key) != KEY_LENGTH or not key.startswith(keys):
                return None
            try:
                point_id, payload = read_point(blob)
            except (UnreadablePoint, InputError):
                return None
            if not isinstance(point_id, str) or not UUID_TEXT.fullmatch(point_id):
                return None
            memory = from_payload(point_id, payload, now=now)
            if not isinstance(memory, Memory):
                return None
            memories.append(memory)
        return memories

    def _read(self, db: ReadOnlyDb) -> tuple[list[tuple[Any, ...]], bytearray | None, int] | None:
        """Rows that were written, which rows of the listing still exist, and the current number of rows.

        Which rows exist is None if all do. The result is None if this cannot be told.
        """
        if db.one("PRAGMA schema_version") != self._schema:
            return None
        last = self._last_untouched(db)
        if last is None:
            return None
        [(number, size)] = db.all("SELECT count(*), sum(length(point)) FROM points WHERE rowid > ?", (last,))
        if number > MOST_CHANGED or (size or 0) > MOST_BYTES:
            return None
        rows = db.all("SELECT rowid, id, point FROM points WHERE rowid > ? ORDER BY rowid", (last,))
        count = int(db.one("SELECT count(*) FROM points"))
        rowids = self._listing.rowids
        below = bisect_right(rowids, last)
        if below == len(rowids) and count == below + len(rows):
            return rows, None, count
        greatest = rows[-1][0] if rows else last
        if greatest >= _MOST_ROWIDS:
            return None
        there = bytearray(greatest + 1)
        for (rowid,) in db.stream("SELECT rowid FROM points"):
            there[rowid] = 1
        kept = bytearray(there[rowid] for rowid in rowids[:below])
        if sum(kept) + len(rows) != count:
            return None  # a deleted row is back
        kept.extend(bytes(len(rowids) - below))
        return rows, kept, count

    def _last_untouched(self, db: ReadOnlyDb) -> int | None:
        """The greatest rowid up to which no number was given twice; 0 for a store that was empty."""
        newest = self._listing.newest
        if not newest:
            return 0 if not self._listing.rowids else None
        marks = ", ".join("?" * len(newest))
        rows = db.all(f"SELECT rowid, id, point FROM points WHERE rowid IN ({marks})", tuple(newest))
        same = [row[0] for row in rows if _digest(row) == newest[row[0]]]
        if not same:
            return None
        last = max(same)
        # If a row below it is another one now, that was written after it; then the row itself is a copy of what was
        # there.
        return last if sum(row[0] <= last for row in rows) == len(same) else None

    def _without(self, kept: bytearray | None) -> Iterable[str]:
        if kept is None:
            return []
        ids = self._listing.ids
        return [_uuid(ids[16 * at : 16 * at + 16]) for at, is_there in enumerate(kept) if not is_there]

    def _next(self, rows: Sequence[tuple[Any, ...]], memories: Sequence[Memory], kept: bytearray | None) -> Listing:
        old = self._listing
        rowids, ids = array("q", old.rowids), [old.ids]
        newest = dict(old.newest)
        if kept is not None:
            rowids, ids, begin = array("q"), [], 0
            for at in [*(at for at, is_there in enumerate(kept) if not is_there), len(kept)]:
                rowids.extend(old.rowids[begin:at])
                ids.append(old.ids[16 * begin : 16 * at])
                if at < len(kept):
                    newest.pop(old.rowids[at], None)
                begin = at + 1
        rowids.extend(row[0] for row in rows)
        ids.append(bytes.fromhex("".join(memory.id for memory in memories).replace("-", "")))
        newest |= {row[0]: _digest(row) for row in rows[-NEWEST:]}
        newest = {rowid: newest[rowid] for rowid in sorted(newest)[-NEWEST:]}
        return Listing(rowids, b"".join(ids), newest, old.keys or common_key_start(row[1] for row in rows))


def common_key_start(keys: Iterable[str]) -> str:
    """What all keys begin with, if all are for UUIDs and made in the same way; else empty."""
    starts = {key[:KEY_START] if len(key) == KEY_LENGTH else "" for key in keys}
    start = starts.pop() if len(starts) == 1 else ""
    return start if _KEY.fullmatch(start) else ""


def _uuid(packed: bytes) -> str:
    digits = packed.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _digest(row: tuple[Any, ...]) -> bytes:
    text = str(row[1]).encode() + b"\n" + (row[2] if isinstance(row[2], bytes) else str(row[2]).encode())
    return blake2b(text, digest_size=16).digest()
