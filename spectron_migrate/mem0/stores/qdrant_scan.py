"""What one reading of an embedded Qdrant has seen, and which of it changed while it was read."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import reduce
from operator import xor
from typing import Any

from spectron_migrate.mem0.stores.qdrant_changes import Listing, NewestRows, common_key_start
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb

_MOST_GONE = 1000
"""If more rows than this were deleted during a reading, the next reading, of everything, finds them."""

Span = tuple[int, int | None]
"""A span of rowids: after the first number, up to the second or to the end."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A page that was read, with the rowids `first` to `last`."""

    first: int
    last: int
    rowids: array[int]
    keys: array[int]
    """A hash of rowid and key of each row."""
    ids: bytes
    """The ids of these rows, 16 bytes each; empty if any is no UUID."""
    key_start: str
    """See `qdrant_changes.common_key_start`."""

    @classmethod
    def of(cls, after: int, rows: list[tuple[Any, ...]], ids: bytes) -> _Page:
        """The page of rows that follow rowid `after`, with `ids` as above."""
        rowids, keys = [row[0] for row in rows], [row[1] for row in rows]
        hashes = array("q", map(hash, zip(rowids, keys, strict=True)))
        return cls(after + 1, rowids[-1], array("q", rowids), hashes, ids, common_key_start(keys))

    def part(self, keys: set[int], *, gone: bool = False) -> _Page:
        """Which of its rows have one of these keys or, if `gone`, have none of them."""
        chosen = [at for at, key in enumerate(self.keys) if (key not in keys) == gone]
        return replace(
            self,
            rowids=array("q", [self.rowids[at] for at in chosen]),
            keys=array("q", [self.keys[at] for at in chosen]),
            ids=b"".join(self.ids[16 * at : 16 * at + 16] for at in chosen),
        )

    def each_id(self) -> list[bytes]:
        """The ids one by one."""
        return [self.ids[at : at + 16] for at in range(0, len(self.ids), 16)]


class QdrantScan:
    """What one reading has seen, and what has become of it since."""

    def __init__(self) -> None:
        self._pages: list[_Page] = []
        self._newest = NewestRows()
        self._gone: dict[bytes, int] = {}
        """Rowids of rows that were yielded and are gone now, by id. Other rows may now have the same id, or number."""

    def add(self, after: int, rows: list[tuple[Any, ...]], ids: bytes) -> None:
        """Add the rows that follow rowid `after`, with `_Page.ids`."""
        self._pages.append(_Page.of(after, rows, ids))
        self._newest.add(rows)

    def compare(self, db: ReadOnlyDb) -> list[Span]:
        """Within a transaction: the spans that have to be read (again). Every other row was yielded as it is now."""
        pages = sorted(self._pages, key=lambda page: page.first)
        firsts = [page.first for page in pages]
        keys = [0] * len(pages)
        first_new: int | None = None
        for rowid, key in db.stream("SELECT rowid, id FROM points"):
            index = bisect_right(firsts, rowid) - 1
            if index < 0 or rowid > pages[index].last:
                first_new = rowid if first_new is None else min(first_new, rowid)
            else:
                keys[index] ^= hash((rowid, key))
        self._pages = []
        spans: list[Span] = []
        for page, now in zip(pages, keys, strict=True):
            if first_new is not None and page.last >= first_new:
                self._note_gone(page)  # to be read again together with the new rows, from the first of these on
            elif now == reduce(xor, page.keys, 0):
                self._pages.append(page)
            elif not self._keep_what_is_left(page, db):
                spans.append((page.first - 1, page.last))
        return spans if first_new is None else [*spans, (first_new - 1, None)]

    def listing(self) -> Listing | None:
        """All rows that were yielded, for a reader of later changes; None if that is not certain."""
        pages = sorted(self._pages, key=lambda page: page.first)
        starts = {page.key_start for page in pages}
        if len(starts) > 1 or "" in starts or any(not page.ids for page in pages):
            return None
        gone = self._deleted()
        if len(gone) > _MOST_GONE:
            return None
        rowids: array[int] = array("q")
        for page in pages:
            rowids.extend(page.rowids)
        ids = bytearray(b"".join(page.ids for page in pages))
        for one, rowid in gone.items():
            at = bisect_left(rowids, rowid)
            if rowids[at : at + 1] == array("q", [rowid]):
                return None  # another row has its number now, or had it in between
            rowids.insert(at, rowid)
            ids[16 * at : 16 * at] = one
        return Listing(rowids, bytes(ids), self._newest.among(rowids), "".join(starts))

    def _deleted(self) -> dict[bytes, int]:
        """The rowids of deleted rows whose ids no other row has."""
        deleted = dict(self._gone)
        for page in self._pages if deleted else ():
            for one in page.each_id():
                deleted.pop(one, None)
        return deleted

    def _keep_what_is_left(self, page: _Page, db: ReadOnlyDb) -> bool:
        """Keep the page without deleted rows; False if it now has a row that was not read."""
        rows = db.all("SELECT rowid, id FROM points WHERE rowid BETWEEN ? AND ?", (page.first, page.last))
        now = set(map(hash, rows))
        if not now.issubset(page.keys):
            self._note_gone(page)
            return False
        self._note_gone(page.part(now, gone=True))
        if now:
            self._pages.append(page.part(now))
        return True

    def _note_gone(self, page: _Page) -> None:
        self._gone.update(zip(page.each_id(), page.rowids, strict=False))
