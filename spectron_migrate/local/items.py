"""Searchable rows of a store: the item table, its FTS5 index, and the vector index in memory, kept consistent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spectron_migrate.local.rows import Item, Region, ScoredItem, SearchFilter
from spectron_migrate.local.vectors import VectorIndex, fingerprint

if TYPE_CHECKING:
    from spectron_migrate.local.rows import Vector

_ITEM = "id, kind, selector, text, known_at, until, duplicate_of, labels, session, turn"
_SMALL_REGION = 200
"""Up to this many selectors, a BM25 search names them in its query, so that it reads only their rows."""


class ItemTable:
    """The part of `storage.Store` that is about items and search."""

    def __init__(self, db: sqlite3.Connection, dimensions: int) -> None:
        """Uses an open connection; the vector index is loaded when it is first needed."""
        self._db = db
        self._dimensions = dimensions
        self._loaded: VectorIndex | None = None

    def passages(self, region: Region) -> Iterator[Item]:
        where, values = in_region(region)
        rows = self._db.execute(
            f"SELECT {_ITEM} FROM item WHERE kind = 'memory_chunk' AND until IS NULL AND {where} ORDER BY number",
            values,
        )
        for row in rows:
            yield _item(row)

    def add_item(self, item: Item, vector: Vector) -> Item:
        index = self._index()
        passage = item.kind == "memory_chunk"
        print_ = fingerprint(item.text) if passage else 0
        original = index.near_duplicate(item.selector, print_) if passage else None
        duplicate_of = self._id_of(original) if original is not None else None
        packed = vector.astype(np.float16)
        number = self._db.execute(
            f"INSERT INTO item({_ITEM}, print, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                item.id,
                item.kind,
                item.selector,
                item.text,
                item.known_at,
                item.until,
                duplicate_of,
                json.dumps(item.labels) if item.labels else None,
                item.session,
                item.turn,
                print_ - (1 << 63),
                packed.tobytes(),
            ),
        ).lastrowid
        assert number is not None  # noqa: S101 - an INSERT always has one
        index.add(
            number,
            packed.astype(np.float32),
            selector=item.selector,
            kind=item.kind,
            live=item.until is None,
            shown=duplicate_of is None,
            print_=print_,
        )
        return item if duplicate_of is None else replace(item, duplicate_of=duplicate_of)

    def nearest(self, vector: Vector, filter_: SearchFilter, limit: int) -> list[ScoredItem]:
        return self._index().nearest(vector, self._mask(filter_), limit)

    def matching(self, words: Sequence[str], filter_: SearchFilter, limit: int) -> list[ScoredItem]:
        if not words:
            return []
        index, keep = self._index(), self._mask(filter_)
        query = "text : (" + " OR ".join('"' + word.replace('"', "") + '"' for word in words) + ")"
        if filter_.region is not None and len(filter_.region) <= _SMALL_REGION:
            numbers = " OR ".join(f'"{number}"' for number in sorted(filter_.region))
            query = f"({query}) AND (selector : ({numbers}))" if numbers else ""
        if not query:
            return []
        fetch = limit * 4
        while True:
            rows = self._db.execute(
                "SELECT rowid, -rank FROM item_text WHERE item_text MATCH ? AND rank MATCH 'bm25(1.0, 0.0)'"
                " ORDER BY rank LIMIT ?",
                (query, fetch),
            ).fetchall()
            kept = keep[index.positions(row[0] for row in rows)].tolist()
            found = [ScoredItem(row[0], row[1]) for row, ok in zip(rows, kept, strict=True) if ok]
            if len(found) >= limit or len(rows) < fetch:
                return found[:limit]
            fetch *= 16  # most matches are outside the region

    def visible(self, numbers: Iterable[int], filter_: SearchFilter) -> list[int]:
        asked = list(numbers)
        keep = self._mask(filter_)[self._index().positions(asked)]
        return [number for number, ok in zip(asked, keep, strict=True) if ok]

    def items(self, numbers: Iterable[int]) -> dict[int, Item]:
        rows = self._db.execute(
            f"SELECT number, {_ITEM} FROM item WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
        return {row[0]: _item(row[1:]) for row in rows}

    def item_numbers(self, ids: Sequence[str]) -> dict[str, int]:
        rows = self._db.execute(
            "SELECT id, number FROM item WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
        )
        return dict(rows.fetchall())

    def close_items(self, ids: Sequence[str], at: str) -> int:
        live = self._numbers("until IS NULL AND id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
        if not live:
            return 0
        marks = json.dumps(live)
        self._db.execute("UPDATE item SET until = ? WHERE number IN (SELECT value FROM json_each(?))", (at, marks))
        self._db.execute(
            "UPDATE attribute SET valid_until = ? WHERE valid_until IS NULL AND id IN"
            " (SELECT id FROM item WHERE number IN (SELECT value FROM json_each(?)))",
            (at, marks),
        )
        self._index().mark(live, live=False)
        self._promote_duplicates("until IS NOT NULL AND number IN (SELECT value FROM json_each(?))", (marks,))
        return len(live)

    def hide_items(self, ids: Sequence[str]) -> int:
        times = self._db.execute(
            "SELECT known_at, json_group_array(id) FROM item WHERE until IS NULL"
            " AND id IN (SELECT value FROM json_each(?)) GROUP BY known_at",
            (json.dumps(ids),),
        ).fetchall()
        return sum(self.close_items(json.loads(group), at) for at, group in times)

    def _index(self) -> VectorIndex:
        if self._loaded is None:
            rows = self._db.execute(
                "SELECT number, selector, kind, until IS NULL, duplicate_of IS NULL, print, vector FROM item"
                " ORDER BY number"
            ).fetchall()
            packed = np.frombuffer(b"".join(row[6] for row in rows), np.float16).reshape(-1, self._dimensions)
            self._loaded = VectorIndex(self._dimensions, capacity=max(1024, len(rows) + len(rows) // 4))
            self._loaded.load([(*row[:5], row[5] + (1 << 63)) for row in rows], packed.astype(np.float32))
        return self._loaded

    def _mask(self, filter_: SearchFilter) -> np.typing.NDArray[np.bool_]:
        index = self._index()
        if filter_.as_of is None:
            keep = index.mask(filter_.region, filter_.kinds, duplicates=filter_.duplicates)
        else:
            then = "known_at <= ?1 AND (until IS NULL OR until > ?1)"
            if not filter_.duplicates:
                then += " AND duplicate_of IS NULL"
            keep = index.scope_mask(filter_.region, filter_.kinds) & index.among(self._numbers(then, (filter_.as_of,)))
        for label in filter_.labels:
            carries = "EXISTS (SELECT 1 FROM json_each(labels) WHERE value = ?)"
            keep = keep & index.among(self._numbers(carries, (label,)))
        return keep

    def _numbers(self, where: str, values: tuple[Any, ...]) -> list[int]:
        return [row[0] for row in self._db.execute(f"SELECT number FROM item WHERE {where}", values)]

    def _id_of(self, number: int) -> str:
        return str(self._db.execute("SELECT id FROM item WHERE number = ?", (number,)).fetchone()[0])

    def _drop_items(self, where: str, values: tuple[Any, ...]) -> int:
        numbers = self._numbers(where, values)
        gone = json.dumps(numbers)
        self._promote_duplicates("number IN (SELECT value FROM json_each(?))", (gone,))
        self._db.execute("DELETE FROM item WHERE number IN (SELECT value FROM json_each(?))", (gone,))
        self._index().mark(numbers, live=False, shown=False)
        return len(numbers)

    def _promote_duplicates(self, leaving: str, values: tuple[Any, ...]) -> None:
        """If a passage is removed, its oldest near-duplicate replaces it, so that the text can still be found."""
        orphans = self._db.execute(
            "SELECT min(number), duplicate_of FROM item WHERE until IS NULL AND duplicate_of IN"
            f" (SELECT id FROM item WHERE {leaving}) AND NOT ({leaving}) GROUP BY duplicate_of",
            (*values, *values),
        ).fetchall()
        for number, gone in orphans:
            self._db.execute("UPDATE item SET duplicate_of = NULL WHERE number = ?", (number,))
            self._db.execute("UPDATE item SET duplicate_of = ? WHERE duplicate_of = ?", (self._id_of(number), gone))
            self._index().mark([number], shown=True)

    def _drop_caches(self) -> None:
        """After a rollback the memory may be ahead of the file: load it again when it is needed."""
        self._loaded = None


def in_region(region: Region) -> tuple[str, tuple[Any, ...]]:
    """An SQL condition on the column `selector`, and its values."""
    if region is None:
        return "TRUE", ()
    return "selector IN (SELECT value FROM json_each(?))", (json.dumps(sorted(region)),)


def _item(row: Sequence[Any]) -> Item:
    return replace(Item(*row), labels=tuple(json.loads(row[7])) if row[7] else ())
