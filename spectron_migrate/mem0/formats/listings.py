"""Accounts for the pages of listings: what they announce against the different ids that were read.

Pages of one listing announce the same total. A page that names one owner belongs to a listing of that owner, unless
another page with the same total names several. Only a total that was counted apart from the page proves anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from spectron_migrate.mem0.formats.paging import OFFSET, PageFacts, page_facts
from spectron_migrate.mem0.seen_ids import DistinctIds
from spectron_migrate.records import Json, counted

_BATCH = 1000
_SEVERAL = ""
"""Owner of a page whose rows have several."""

_Key = tuple[int | None, str, bool]
"""What pages of one listing have in common: its total, how they name the next page, and whether the previous one."""

Owner = str | None
"""Owner of a row, as one text; None for a row without any."""


@dataclass(slots=True)
class _OpenList:
    """A list of rows that is being read."""

    facts: PageFacts
    ids: DistinctIds = field(default_factory=DistinctIds)
    batch: list[str] = field(default_factory=list)
    rows: int = 0
    checksum: int = 0
    owner: Owner = None
    announces: bool = False
    """Whether it says anything about the whole, against which its ids are counted."""

    def __post_init__(self) -> None:
        self.announces = self.facts.total is not None or self.facts.more is not None


@dataclass(slots=True)
class _Listing:
    """Pages that announce the same total, of one owner or of all."""

    ids: DistinctIds = field(default_factory=DistinctIds)
    rows: int = 0
    """Different rows of each page, added up."""
    starts: int = 0
    ends: int = 0
    says_more: bool = False
    is_later: bool = False
    """Whether a page says that there is one before it."""

    def add(self, ids: DistinctIds, facts: PageFacts) -> None:
        """Add a page."""
        all_ids = ids.ids()
        while batch := list(islice(all_ids, _BATCH)):
            self.ids.add(batch)
        self.rows += ids.count()
        self.starts += facts.first is True
        self.ends += facts.more is False
        self.says_more |= facts.more is not None
        self.is_later |= facts.first is False

    @property
    def least(self) -> int:
        """How many listings these pages are, at least."""
        return max(1, self.starts, self.ends)

    def short_of(self, total: int) -> int:
        """How many rows are missing, at least."""
        return max(0, total - self.ids.count(), self.least * total - self.rows)

    @property
    def lacks_start(self) -> bool:
        """Whether the first page is not here."""
        return self.is_later and not self.starts

    @property
    def open_ends(self) -> int:
        """Listings whose last page is not here."""
        return max(1, self.starts) - self.ends if self.says_more else 0


class Listings:
    """The listings of all files that were read."""

    def __init__(self) -> None:
        self.missing = 0
        """After `finish`: rows that are announced and were not read, at least."""
        self.total: int | None = None
        """After `finish`: the total of all listings, if each was shown to be complete."""
        self.notes: list[str] = []
        self._pages: dict[int, _OpenList] = {}
        self._by_owner: dict[_Key, dict[str, _Listing]] = {}
        self._whole: dict[_Key, _Listing] = {}
        self._read: dict[tuple[int, int, Owner], str] = {}
        self._next_ids: set[str] = set()
        self._is_proven = True

    def add(self, number: int, head: Mapping[str, Json] | None, row: str, owner: Owner) -> None:
        """A row of list `number`, by its id, or by its place if it has none."""
        page = self._pages.get(number) or self._begin(number, head)
        page.rows += 1
        page.checksum += hash(row)
        if owner is not None and page.owner != owner:
            page.owner = owner if page.owner is None else _SEVERAL
        if page.announces:
            page.batch.append(row)
            if len(page.batch) >= _BATCH:
                self._flush(page)

    def end(self, number: int, head: Mapping[str, Json] | None, place: str) -> None:
        """List `number` ends; `place` names it."""
        page = self._pages.get(number) or self._begin(number, head)
        del self._pages[number]
        self._flush(page)
        with closing(page.ids) as ids:
            rows, facts = ids.count(), page.facts
            mark = (page.checksum, page.rows, page.owner)
            if page.rows and mark in self._read:
                self.notes.append(f"{place} repeats {self._read[mark]}: the same {counted(page.rows, 'row')} again")
                return
            self._read[mark] = place
            # A counter that equals its own rows may have been counted from them
            total = facts.total if facts.total is not None and facts.total > rows else None
            if total is None and facts.more is None:
                self._is_proven = False
                return
            if facts.next_id is not None:
                self._next_ids.add(facts.next_id)
            key = (total, facts.chain, facts.first is not None)
            owner = _SEVERAL if page.owner is None or facts.chain == OFFSET else page.owner
            listings = self._by_owner.setdefault(key, {})
            for listing in (self._whole.setdefault(key, _Listing()), listings.setdefault(owner, _Listing())):
                listing.add(ids, facts)

    def finish(self) -> None:
        """All files were read: compare what was announced with what was read."""
        totals = 0
        for key, listings in self._by_owner.items():
            total, whole = key[0] or 0, self._whole[key]
            apart = [whole] if _SEVERAL in listings else list(listings.values())
            short = sum(one.short_of(total) for one in apart)
            open_ends = sum(one.open_ends for one in apart)
            open_starts = sum(one.lacks_start for one in apart)
            may_be_one = len(apart) > 1 and whole.starts == whole.ends == 1 and not whole.short_of(total)
            if not may_be_one:
                self.missing += max(short, open_ends, open_starts)
                if open_starts:
                    self.notes.append("a page of a listing names one before it, and the first is not among the files")
                if open_ends:
                    self.notes.append("the last page of a listing names a next page, which is not among the files")
            shown = total and not short and not open_ends and not open_starts and all(one.least == 1 for one in apart)
            self._is_proven = bool(self._is_proven and shown)
            totals += total * len(apart)
        if self._is_proven and self._by_owner and not self.missing:
            self.total = totals

    def next_ids(self) -> set[str]:
        """The ids with which pages that were announced begin."""
        return self._next_ids

    def close(self) -> None:
        """Remove all ids."""
        for listing in [*self._whole.values(), *(one for part in self._by_owner.values() for one in part.values())]:
            listing.ids.close()

    def _begin(self, number: int, head: Mapping[str, Json] | None) -> _OpenList:
        self._pages[number] = _OpenList(page_facts(head or {}))
        return self._pages[number]

    def _flush(self, page: _OpenList) -> None:
        batch, page.batch = page.batch, []
        page.ids.add(batch)
