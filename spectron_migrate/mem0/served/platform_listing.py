"""One listing of the Platform's, read whole: frozen in time, cut into windows, each proven by its count."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.served.http import Http, Rejected
from spectron_migrate.mem0.served.platform_spool import Spool
from spectron_migrate.mem0.tally import Ids
from spectron_migrate.records import Json, format_time

PAGE = 200
_WINDOW = 2_000
"""Rows of a window: ten pages, so that page numbers stay small and a window is soon read again."""

_FIRST_STEP = timedelta(days=90)
_NARROWEST = timedelta(milliseconds=1)
_OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
_TRIES = 5
NO_SUCH_FILTER = (400, 422)
_PARALLEL = 4

Filter = dict[str, Any]
EVERYBODY: Filter = {"OR": [{"user_id": "*"}, {"agent_id": "*"}, {"app_id": "*"}, {"run_id": "*"}]}


@dataclass(frozen=True, slots=True)
class Window:
    """Rows created from one moment on (None: from ever) and before another."""

    since: datetime | None
    until: datetime
    step: timedelta = _FIRST_STEP

    def bounds(self) -> Filter:
        """As the Platform's filters say it."""
        lower = {} if self.since is None else {"gte": format_time(self.since)}
        return {"created_at": {**lower, "lt": format_time(self.until)}}

    def halves(self) -> tuple[Window, Window] | None:
        """The older and the younger part; an open window gives up spans that double. None where it is narrow."""
        if self.since is None:
            middle = self.until - self.step
            return None if middle < _OLDEST else (Window(None, middle, self.step * 2), Window(middle, self.until))
        if self.until - self.since <= _NARROWEST:
            return None
        middle = self.since + (self.until - self.since) / 2
        return Window(self.since, middle), Window(middle, self.until)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    count: int
    """How many rows the whole listing has, as the Platform says."""
    rows: list[Json]
    last: bool


class Lister:
    """Reads listings; `short` adds up the rows that were announced and not given."""

    def __init__(self, http: Http, spool: Spool | None) -> None:
        """`spool` keeps what was fetched for another try."""
        self.short = 0
        self._http = http
        self._spool = spool

    def count(self, what: Filter) -> int:
        """How many rows a listing has."""
        return self._page(what, 1, size=1).count

    def frozen(self, what: Filter, until: datetime) -> Iterator[list[Json]]:
        """Everything created before `until`, window by window, oldest first; then what has no time at all."""
        first = Window(None, until)
        try:
            windows = [(first, self._frozen_count(_within(what, first)))]
        except Rejected as error:
            if error.status not in NO_SUCH_FILTER:
                raise
            yield from self.whole(what)  # this Platform has no filter by time
            return
        read: list[tuple[Window, int]] = []
        while windows:
            window, count = windows.pop()
            halves = self._halves(what, window, count)
            if halves:
                windows.extend(reversed(halves))
            else:
                read.append((window, (yield from self.whole(_within(what, window))) if count else 0))
        yield from self._what_came_late(what, until, read)

    def _what_came_late(
        self, what: Filter, until: datetime, read: Sequence[tuple[Window, int]]
    ) -> Iterator[list[Json]]:
        """Rows with an older time that were made meanwhile, and rows that have no time at all."""
        since = {"AND": [what, {"created_at": {"gte": format_time(until)}}]}
        held = self.count(what) - self.count(since)
        given = sum(rows for _, rows in read)
        if held <= given:
            return
        for window, rows in read if len(read) > 1 else ():
            if self.count(_within(what, window)) > rows:
                given += (yield from self.whole(_within(what, window), again=True)) - rows
        if held > given:
            yield from self.whole(what)

    def changed(self, what: Filter, since: str, until: datetime) -> Iterator[list[Json]]:
        """What was edited or made in a span; everything where this Platform has no filter that says so."""
        for times in _edited_or_made({"gte": since, "lt": format_time(until)}):
            if self._is_understood({"AND": [what, times]}):
                yield from self.whole({"AND": [what, times]})
                return
        yield from self.frozen(what, until)

    def fresh(self, what: Filter, since: datetime) -> Iterator[list[Json]]:
        """What was edited or made since a moment, by the best filter this Platform has for it, if it has any."""
        span = {"gte": format_time(since)}
        for times in (*_edited_or_made(span), {"created_at": span}):
            if self._is_understood({"AND": [what, times]}):
                yield from self.whole({"AND": [what, times]})
                return

    def _is_understood(self, what: Filter) -> bool:
        try:
            self.count(what)
        except Rejected as error:
            if error.status not in NO_SUCH_FILTER:
                raise
            return False
        return True

    def whole(self, what: Filter, *, again: bool = False) -> Generator[list[Json], None, int]:
        """All pages of one listing, again until nothing moved meanwhile; how many different rows there were.

        What it announces and does not give in the end is added to `short`: at least one where it never stood
        still, because a row that goes lets another slip past between two pages. `again` asks the Platform even
        where an earlier try of this scan has the pages.
        """
        name = json.dumps(what, sort_keys=True)
        spooled = self._spool.pages(name) if self._spool is not None and not again else None
        with closing(Ids()) as ids, closing(Ids()) as now:
            if spooled is not None:
                for rows in spooled:
                    ids.add(list(_ids(rows)))
                    yield rows
                return ids.count()
            for _ in range(_TRIES):
                counts: set[int] = set()
                now.close()
                for page in self._pages(what):
                    counts.add(page.count)
                    now.add(list(_ids(page.rows)))
                    ids.add(list(_ids(page.rows)))
                    if self._spool is not None:
                        self._spool.put(name, page.rows)
                    yield page.rows
                if counts == {now.count()}:  # else something went, and what stood behind it moved up a place
                    break
            else:
                self.short += max(1, max(counts) - ids.count())
                return ids.count()
            if self._spool is not None:
                self._spool.done(name)
            return ids.count()

    def _halves(self, what: Filter, window: Window, count: int) -> list[tuple[Window, int]]:
        """Two smaller windows with their counts; none where it is small, or narrow, or time tells nothing here."""
        halves = window.halves() if count > _WINDOW else None
        if halves is None:
            return []
        counts = [self._frozen_count(_within(what, half)) for half in halves]
        return [] if counts == [count, count] else list(zip(halves, counts, strict=True))

    def _frozen_count(self, what: Filter) -> int:
        """The count of a window, which a scan that goes on has asked for already."""
        name = json.dumps(what, sort_keys=True)
        known = self._spool.count(name) if self._spool is not None else None
        if known is None:
            known = self.count(what)
            if self._spool is not None:
                self._spool.put_count(name, known)
        return known

    def _pages(self, what: Filter) -> Iterator[Page]:
        first = self._page(what, 1)
        yield first
        number, last = 1, first.last
        expected = -(-first.count // PAGE)
        pool = ThreadPoolExecutor(_PARALLEL)
        try:
            while not last:
                ahead = range(number + 1, max(number + 1, min(number + _PARALLEL, expected)) + 1)
                for page in pool.map(lambda each: self._page(what, each), ahead):
                    number += 1
                    last = page.last
                    yield page
                    if last:
                        break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a request may wait for minutes: an interrupt may not

    def _page(self, what: Filter, number: int, *, size: int | None = None) -> Page:
        body = {"filters": what, "show_expired": True}
        try:
            told = self._http.ask(
                "POST", "/v3/memories/", params={"page": number, "page_size": size or PAGE}, body=body
            ).value
        except Rejected as error:
            if error.status == 404 and number > 1:  # the set shrank: the page is gone
                return Page(0, [], last=True)
            raise
        if not isinstance(told, dict) or not isinstance(told.get("results"), list):
            raise Incomplete(f"{self._http.base_url} answered a listing with something that is none")
        rows = told["results"]
        count = told.get("count")
        return Page(count if isinstance(count, int) else len(rows), rows, last=not told.get("next"))


def requests_for(rows: int) -> int:
    """How many requests a listing of so many rows takes: its pages, and two counts for each of its windows.

    Halving leaves windows between half full and full; a window's last page is half full.
    """
    windows = -(-rows * 4 // (_WINDOW * 3)) if rows > _WINDOW else 1
    return -(-rows // PAGE) + windows // 2 + 2 * windows + 6


def _edited_or_made(span: Filter) -> tuple[Filter, Filter]:
    edited, made = {"updated_at": span}, {"created_at": span}
    return {"OR": [edited, made]}, edited


def _within(what: Filter, window: Window) -> Filter:
    return {"AND": [what, window.bounds()]}


def _ids(rows: list[Json]) -> Iterator[str]:
    return (str(row.get("id")) for row in rows if isinstance(row, dict))
