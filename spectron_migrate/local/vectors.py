"""The vector index of one context: vectors in memory, and the columns that a search filters by."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectron_migrate.local.rows import Kind, Region, ScoredItem

KINDS: tuple[Kind, ...] = ("memory_chunk", "attribute")
NEAR = 3
"""Passages are near-duplicates if their 64-bit fingerprints differ in at most this many bits."""

_WORD = re.compile(r"\w+")
_BANDS = NEAR + 1
"""Bands of 16 bits: fingerprints that differ in at most `NEAR` bits are equal in at least one band."""


def fingerprint(text: str) -> int:
    """A simhash over words and pairs of words; case, spaces and punctuation do not matter."""
    words = _WORD.findall(text.casefold())
    features = words + [f"{first} {second}" for first, second in pairwise(words)]
    hashes = b"".join(blake2b(part.encode(), digest_size=8).digest() for part in features or [text.strip()])
    bits = np.unpackbits(np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 8), axis=1)
    majority = bits.sum(axis=0, dtype=np.int32) * 2 > len(bits)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def _bands(print_: int) -> Iterator[int]:
    """Each band with its position, as one number."""
    for position in range(_BANDS):
        yield position << 16 | print_ >> 16 * position & 0xFFFF


def _add_bands(bands: dict[tuple[int, int], list[int]], at: int, selector: int, print_: int) -> None:
    for band in _bands(print_):
        bands.setdefault((selector, band), []).append(at)


class VectorIndex:
    """Arrays with one entry per row of the item table, in the order of the rows' numbers."""

    def __init__(self, dimensions: int, capacity: int = 1024) -> None:
        self.size = 0
        self._columns: dict[str, NDArray[Any]] = {
            "vector": np.zeros((capacity, dimensions), np.float32),
            "number": np.zeros(capacity, np.int64),
            "selector": np.zeros(capacity, np.int32),
            "kind": np.zeros(capacity, np.int8),
            "live": np.zeros(capacity, np.bool_),
            "shown": np.zeros(capacity, np.bool_),
            "print": np.zeros(capacity, np.uint64),
        }
        self._bands: dict[tuple[int, int], list[int]] | None = None
        """(selector, band) -> positions of passages with that band; built at the first write."""

    def load(self, rows: Sequence[tuple[Any, ...]], vectors: NDArray[np.float32]) -> None:
        """Load many rows into an empty index, in the order of their numbers.

        Args:
            rows: number, selector, kind, live, shown, print of each.
            vectors: one per row.
        """
        if not rows:
            return
        numbers, selectors, kinds, live, shown, prints = zip(*rows, strict=True)
        codes = [KINDS.index(kind) for kind in kinds]
        columns = (vectors, numbers, selectors, codes, live, shown, np.array(prints, np.uint64))
        for name, values in zip(self._columns, columns, strict=True):
            self._columns[name][: len(rows)] = values
        self.size = len(rows)

    def add(
        self,
        number: int,
        vector: NDArray[np.float32],
        *,
        selector: int,
        kind: Kind,
        live: bool,
        shown: bool,
        print_: int,
    ) -> None:
        """Append a row; its number must be greater than all others."""
        if self.size == len(self._columns["number"]):
            self._grow()
        values = {
            "vector": vector,
            "number": number,
            "selector": selector,
            "kind": KINDS.index(kind),
            "live": live,
            "shown": shown,
            "print": print_,
        }
        for name, value in values.items():
            self._columns[name][self.size] = value
        if self._bands is not None and kind == "memory_chunk":
            _add_bands(self._bands, self.size, selector, print_)
        self.size += 1

    def mark(self, numbers: Iterable[int], *, live: bool | None = None, shown: bool | None = None) -> None:
        """Change the visibility of rows; a permanently removed row is neither live nor shown."""
        positions = np.searchsorted(self._column("number"), np.fromiter(numbers, np.int64))
        if live is not None:
            self._columns["live"][positions] = live
        if shown is not None:
            self._columns["shown"][positions] = shown

    def near_duplicate(self, selector: int, print_: int) -> int | None:
        """The number of the oldest live passage in the same scope with nearly the same text, duplicates excluded."""
        if self._bands is None:
            self._bands = self._all_bands()
        live, shown, prints = (self._columns[name] for name in ("live", "shown", "print"))
        close = [
            at
            for band in _bands(print_)
            for at in self._bands.get((selector, band), ())
            if (int(prints[at]) ^ print_).bit_count() <= NEAR and live[at] and shown[at]
        ]
        return int(self._columns["number"][min(close)]) if close else None

    def mask(self, region: Region, kinds: Collection[Kind], *, duplicates: bool) -> NDArray[np.bool_]:
        """Mask of the live rows that a search may return."""
        keep = self.scope_mask(region, kinds)
        keep &= self._column("live")
        if not duplicates:
            keep &= self._column("shown")
        return keep

    def scope_mask(self, region: Region, kinds: Collection[Kind]) -> NDArray[np.bool_]:
        """Mask of the rows of a region and of some kinds, live or not."""
        wanted = np.array([kind in kinds for kind in KINDS])
        keep: NDArray[np.bool_] = wanted[self._column("kind")]
        if region is not None:
            highest = int(self._column("selector").max(initial=0))
            allowed = np.zeros(highest + 1, np.bool_)
            allowed[[number for number in region if number <= highest]] = True
            keep &= allowed[self._column("selector")]
        return keep

    def among(self, numbers: Iterable[int]) -> NDArray[np.bool_]:
        """Mask of the rows with these numbers."""
        return np.isin(self._column("number"), np.fromiter(numbers, np.int64))

    def nearest(self, vector: NDArray[np.float32], keep: NDArray[np.bool_], limit: int) -> list[ScoredItem]:
        """The nearest rows of a mask by exact cosine; none for a zero vector (a text without any known word)."""
        positions = np.flatnonzero(keep)
        if not len(positions) or not vector.any():
            return []
        # einsum computes in this thread; `@` uses several, which takes four times as long on a busy machine.
        if len(positions) * 4 > self.size:  # gathering rows costs more than multiplying all of them
            scores = np.einsum("ij,j->i", self._column("vector"), vector)[positions]
        else:
            scores = np.einsum("ij,j->i", self._columns["vector"][positions], vector)
        if len(scores) > limit:
            best = np.argpartition(-scores, limit)[:limit]
            positions, scores = positions[best], scores[best]
        order = np.lexsort((positions, -scores))
        numbers = self._columns["number"][positions[order]].tolist()
        return list(map(ScoredItem, numbers, scores[order].tolist()))

    def positions(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """Positions of rows in a mask."""
        found: NDArray[np.int64] = np.searchsorted(self._column("number"), np.fromiter(numbers, np.int64))
        return found

    def _all_bands(self) -> dict[tuple[int, int], list[int]]:
        bands: dict[tuple[int, int], list[int]] = {}
        selectors, prints = self._column("selector").tolist(), self._column("print").tolist()
        for at in np.flatnonzero(self._column("kind") == KINDS.index("memory_chunk")).tolist():
            _add_bands(bands, at, selectors[at], prints[at])
        return bands

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name][: self.size]

    def _grow(self) -> None:
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.zeros_like(column)])
