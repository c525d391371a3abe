"""The searchable rows of one context in memory: their vectors, and what a search filters by."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectron_migrate.local.storage import Kind, Region, ScoredItem

KINDS: tuple[Kind, ...] = ("memory_chunk", "attribute")
NEAR = 3
"""Two passages are near-duplicates when their 64-bit fingerprints differ in at most so many bits."""

_WORD = re.compile(r"\w+")
_BANDS = NEAR + 1
"""Of 16 bits each: prints that differ in at most `NEAR` bits agree in at least one whole band."""


def fingerprint(text: str) -> int:
    """A simhash over words and pairs of words: the same but for case, spaces and punctuation is equal."""
    words = _WORD.findall(text.casefold())
    features = words + [f"{first} {second}" for first, second in pairwise(words)]
    hashes = b"".join(blake2b(part.encode(), digest_size=8).digest() for part in features or [text.strip()])
    bits = np.unpackbits(np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 8), axis=1)
    majority = bits.sum(axis=0, dtype=np.int32) * 2 > len(bits)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def _bands(print_: int) -> Iterator[int]:
    """Each band with its place, as one number."""
    for place in range(_BANDS):
        yield place << 16 | print_ >> 16 * place & 0xFFFF


def _note(bands: dict[tuple[int, int], list[int]], at: int, selector: int, print_: int) -> None:
    for band in _bands(print_):
        bands.setdefault((selector, band), []).append(at)


class VectorIndex:
    """Arrays in step with the item table; rows are appended in the order of their numbers."""

    def __init__(self, dimensions: int, capacity: int = 1024) -> None:
        """Start empty."""
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
        """Scope and band of a print -> positions of the passages that have it; made for the first write."""

    def load(self, rows: Sequence[tuple[Any, ...]], vectors: NDArray[np.float32]) -> None:
        """Take many rows at once, in the order of their numbers, into an index that is empty.

        Args:
            rows: number, selector, kind, live, shown, print of each.
            vectors: one a row.
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
        """Append a row; its number must be greater than all before."""
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
            _note(self._bands, self.size, selector, print_)
        self.size += 1

    def mark(self, numbers: Iterable[int], *, live: bool | None = None, shown: bool | None = None) -> None:
        """Change what searches see of some rows; a row that was removed for good is neither live nor shown."""
        positions = np.searchsorted(self._column("number"), np.fromiter(numbers, np.int64))
        if live is not None:
            self._columns["live"][positions] = live
        if shown is not None:
            self._columns["shown"][positions] = shown

    def twin(self, selector: int, print_: int) -> int | None:
        """The oldest live passage in the same scope that is nearly the same text and no duplicate itself."""
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
        """Which rows a search over what is live now may look at."""
        keep = self.scope_mask(region, kinds)
        keep &= self._column("live")
        if not duplicates:
            keep &= self._column("shown")
        return keep

    def scope_mask(self, region: Region, kinds: Collection[Kind]) -> NDArray[np.bool_]:
        """Which rows lie in a region and are of a kind, live or not."""
        wanted = np.array([kind in kinds for kind in KINDS])
        keep: NDArray[np.bool_] = wanted[self._column("kind")]
        if region is not None:
            highest = int(self._column("selector").max(initial=0))
            allowed = np.zeros(highest + 1, np.bool_)
            allowed[[number for number in region if number <= highest]] = True
            keep &= allowed[self._column("selector")]
        return keep

    def among(self, numbers: Iterable[int]) -> NDArray[np.bool_]:
        """Which rows are among these numbers."""
        return np.isin(self._column("number"), np.fromiter(numbers, np.int64))

    def nearest(self, vector: NDArray[np.float32], keep: NDArray[np.bool_], limit: int) -> list[ScoredItem]:
        """Exact cosine over the kept rows; a text without a known word is near to nothing."""
        positions = np.flatnonzero(keep)
        if not len(positions) or not vector.any():
            return []
        # einsum computes in this thread. The threads of `@` wait for each other: on a busy machine that takes
        # four times as long.
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
        """Where in a mask some rows are."""
        found: NDArray[np.int64] = np.searchsorted(self._column("number"), np.fromiter(numbers, np.int64))
        return found

    def _all_bands(self) -> dict[tuple[int, int], list[int]]:
        bands: dict[tuple[int, int], list[int]] = {}
        selectors, prints = self._column("selector").tolist(), self._column("print").tolist()
        for at in np.flatnonzero(self._column("kind") == KINDS.index("memory_chunk")).tolist():
            _note(bands, at, selectors[at], prints[at])
        return bands

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name][: self.size]

    def _grow(self) -> None:
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.zeros_like(column)])
