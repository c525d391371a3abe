"""Notices a source that gives the same pages again and again: a listing of it would never end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from spectron_migrate.errors import Incomplete
from spectron_migrate.records import canonical_json

T = TypeVar("T")

MOST_REPEATED = 100
"""The most pages in a row that were all there before. Redis may return a few of them twice."""
MOST_EMPTY = 1000
"""The most pages in succession without a row. Some services look through a part of a table for each page."""


class RepeatedPages:
    """The pages of one listing."""

    def __init__(self, of: str) -> None:
        """`of`: what is being listed, for the message."""
        self._of = of
        self._seen: set[tuple[int, str, str]] = set()
        self._repeated = self._empty = 0

    def note(self, rows: Sequence[T], key_of: Callable[[T], str] = canonical_json) -> None:
        """Take note of a page; raises Incomplete if too many in a row had nothing new.

        A page is known by its length and by the keys of its first and its last row.
        """
        if not rows:
            self._empty += 1
        else:
            self._empty = 0
            page = (len(rows), key_of(rows[0]), key_of(rows[-1]))
            self._repeated = self._repeated + 1 if page in self._seen else 0
            self._seen.add(page)
        if self._repeated >= MOST_REPEATED or self._empty >= MOST_EMPTY:
            raise Incomplete(
                f"{self._of}: the listing does not end, because the same pages come again and again",
                hint="is there a proxy or a cache before it? it must pass on every parameter of a request",
            )
