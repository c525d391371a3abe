"""Accounts for the pages of listings: compares what they announce with the different ids that were read.

Pages of one listing announce the same total. A page that names one owner belongs to a listing of that owner, unless
another page with the same total names several. Only a total that was counted independently of the page proves anything.
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
"""The owner of a page whose rows have several owners."""

_Key = tuple[int | None, str, bool, bool]
"""What pages of one listing have in common: its total, how they name the next page, whether they name the previous one,
and whether the total is a lower bound."""

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
    beside: list[PageFacts] = field(default_factory=list)
    """What objects among the rows, such as a first or last line that is no row, say about the whole."""


@dataclass(slots=True)
class _Listing:
    """Pages that announce the same total, of one owner or of all."""

    ids: DistinctIds = field(default_factory=DistinctIds)
    rows: int = 0
    """The number of different rows of each page, added up."""
    starts: int = 0
    ends: int = 0
    says_more: bool = False
    is_later: bool = False
    """Whether a page says that there is one before it."""
    numbers: set[int] = field(default_factory=set)
    """Numbers of the pages, if they have one."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """For each page that says so: how many rows come before it, and how many it has."""
    limits: set[int | None] = field(default_factory=set)

    def add(self, ids: DistinctIds, facts: PageFacts, rows: int) -> None:
        """Add a page with this many rows, repeated ones among them."""
        all_ids = ids.ids()
        while batch := list(islice(all_ids, _BATCH)):
            self.ids.add(batch)
        self.rows += ids.count()
        self.starts += facts.first is True
        self.ends += facts.more is False
        self.says_more |= facts.more is not None
        self.is_later |= facts.first is False
        self.limits.add(facts.limit)
        if facts.offset is not None:
            self.places.append((facts.offset, rows))
        if facts.number is not None:
            self.numbers.add(facts.number)

    @property
    def begins(self) -> bool:
        """Whether its first page was read, as far as the pages say where they are."""
        return min(self.numbers, default=0) <= 1 and min(self.places, default=(0, 0))[0] == 0

    @property
    def last_is_full(self) -> bool:
        """Whether the last page has as many rows as were asked for, and does not say whether more follow."""
        return bool(self.places) and not self.says_more and max(self.places)[1] in self.limits

    @property
    def gaps(self) -> int:
        """The least number of rows that are missing between or before the pages."""
        missing = reached = 0
        for offset, rows in sorted(self.places):
            missing += max(0, offset - reached)
            reached = max(reached, offset + rows)
        if self.numbers:
            missing += max(self.numbers) - min(1, *self.numbers) + 1 - len(self.numbers)
        return missing

    @property
    def least(self) -> int:
        """The least number of listings that these pages can be."""
        return max(1, self.starts, self.ends)

    def short_of(self, total: int) -> int:
        """The least number of rows that are missing."""
        return max(0, total - self.ids.count(), self.least * total - self.rows)

    @property
    def lacks_start(self) -> bool:
        """Whether the first page was not read."""
        return self.is_later and not self.starts

    @property
    def open_ends(self) -> int:
        """How many listings lack their last page."""
        return max(1, self.starts) - self.ends if self.says_more else 0


class Listings:
    """The listings of all files that were read."""

    def __init__(self) -> None:
        self.missing = 0
        """After `finish`: the least number of rows that are announced but were not read."""
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
        """Add a row of list `number`, by its id, or by its place if it has none."""
        page = self._pages.get(number) or self._begin(number, head)
        page.rows += 1
        page.checksum += hash(row)
        if owner is not None and page.owner != owner:
            page.owner = owner if page.owner is None else _SEVERAL
        if page.facts.announces:
            page.batch.append(row)
            if len(page.batch) >= _BATCH:
                self._flush(page)

    def counters(self, number: int, beside: Mapping[str, Json]) -> bool:
        """Whether an object in list `number` that is no row has counters, which then count for the list."""
        facts = page_facts(beside)
        if facts.announces:
            (self._pages.get(number) or self._begin(number, None)).beside.append(facts)
        return facts.announces

    def end(self, number: int, head: Mapping[str, Json] | None, place: str) -> None:
        """Note that list `number` ends; `place` names it."""
        page = self._pages.get(number) or self._begin(number, head)
        del self._pages[number]
        self._flush(page)
        with closing(page.ids) as ids:
            rows, facts = ids.count(), page.facts
            self._judge_beside(page, place)
            mark = (page.checksum, page.rows, page.owner)
            if page.rows and mark in self._read:
                self.notes.append(f"{place} repeats {self._read[mark]}: the same {counted(page.rows, 'row')} again")
                return
            self._read[mark] = place
            # a counter that equals the page's own rows may have been counted from them
            total = facts.total if facts.total is not None and facts.total > rows else None
            if facts.failure:
                self.missing += 1
                self.notes.append(f"{place} says that rows could not be given: {facts.failure!r} beside them")
            if total is None and facts.more is None and facts.offset is None and facts.number is None:
                self._is_proven = False
                if page.rows and page.rows == facts.limit:
                    self.notes.append(f"{place} has as many rows as its limit, {facts.limit:,}: more may follow")
                return
            if facts.next_id is not None:
                self._next_ids.add(facts.next_id)
            key = (total, facts.chain, facts.first is not None, facts.is_lower_bound)
            owner = _SEVERAL if page.owner is None or facts.chain == OFFSET else page.owner
            listings = self._by_owner.setdefault(key, {})
            for listing in (self._whole.setdefault(key, _Listing()), listings.setdefault(owner, _Listing())):
                listing.add(ids, facts, page.rows)

    def finish(self) -> None:
        """After all files were read, compare what was announced with what was read."""
        totals = 0
        for key, listings in self._by_owner.items():
            total, whole = key[0] or 0, self._whole[key]
            apart = [whole] if _SEVERAL in listings else list(listings.values())
            short = sum(one.short_of(total) for one in apart)
            open_ends = sum(one.open_ends for one in apart)
            open_starts = sum(one.lacks_start for one in apart)
            gaps = sum(one.gaps for one in apart) if all(one.begins for one in apart) else whole.gaps
            may_be_one = len(apart) > 1 and whole.starts == whole.ends == 1 and not whole.short_of(total)
            if gaps:
                self.notes.append("pages of a listing are missing: the numbers or offsets of the others leave room")
            elif not total and any(one.last_is_full for one in apart):
                self.notes.append("the last page of a listing has as many rows as its limit: more may follow")
            if not may_be_one:
                self.missing += max(short, open_ends, open_starts, gaps)
                if open_starts:
                    self.notes.append("a page of a listing names one before it, and the first is not among the files")
                if open_ends:
                    self.notes.append("the last page of a listing names a next page, which is not among the files")
            faults = short or open_ends or open_starts or gaps or key[3]
            self._is_proven = bool(self._is_proven and total and not faults and all(one.least == 1 for one in apart))
            totals += total * len(apart)
        if self._is_proven and self._by_owner and not self.missing:
            self.total = totals

    def _judge_beside(self, page: _OpenList, place: str) -> None:
        """Compare what objects among the rows announce with the rows, some of which may be repeated."""
        most = max((facts.total or 0 for facts in page.beside), default=0)
        if most > page.rows:
            self.missing += most - page.rows
            self.notes.append(f"{place} announces {counted(most, 'row')} in a line of its own, and has {page.rows:,}")
        elif any(facts.more or facts.failure for facts in page.beside):
            self.missing += 1
            self.notes.append(
                f"{place} says in a line of its own that more rows follow, or that some could not be given"
            )

    def next_ids(self) -> set[str]:
        """The ids with which announced pages begin."""
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
