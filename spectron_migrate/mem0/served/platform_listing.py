"""Reads one listing of the Platform completely, in time windows that are each proven by their count."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.repeated_pages import RepeatedPages
from spectron_migrate.mem0.seen_ids import DistinctIds
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.served.platform_spool import Spool
from spectron_migrate.records import Json, format_time

PAGE = 200
_WINDOW = 2_000
"""The most rows in a window: ten pages, so that page numbers stay small and reading a window again is quick."""

_FIRST_STEP = timedelta(days=90)
_NARROWEST = timedelta(milliseconds=1)
_OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
_TRIES = 5
FILTER_REJECTED = (400, 422)
_PARALLEL = 4

Filter = dict[str, Any]
ANY_OWNER: Filter = {"OR": [{"user_id": "*"}, {"agent_id": "*"}, {"app_id": "*"}, {"run_id": "*"}]}


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The rows created at or after `since` (None: at any time) and before `until`."""

    since: datetime | None
    until: datetime
    step: timedelta = _FIRST_STEP

    def as_filter(self) -> Filter:
        """The window as a filter of the Platform."""
        lower = {} if self.since is None else {"gte": format_time(self.since)}
        return {"created_at": {**lower, "lt": format_time(self.until)}}

    def halves(self) -> tuple[TimeWindow, TimeWindow] | None:
        """The older and the newer part; None if the window is too narrow to split.

        An open window is split `step` before its end, and the step of the older part doubles.
        """
        if self.since is None:
            middle = self.until - self.step
            return (
                None if middle < _OLDEST else (TimeWindow(None, middle, self.step * 2), TimeWindow(middle, self.until))
            )
        if self.until - self.since <= _NARROWEST:
            return None
        middle = self.since + (self.until - self.since) / 2
        return TimeWindow(self.since, middle), TimeWindow(middle, self.until)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    count: int
    """The number of rows of the whole listing, according to the Platform."""
    rows: list[Json]
    last: bool


class ListingReader:
    """Reads listings; `missing_rows` is the number of rows that were announced but not delivered."""

    def __init__(self, http: JsonClient, spool: Spool | None) -> None:
        """`spool` stores fetched pages, so that the scan can be resumed."""
        self.missing_rows = 0
        self._http = http
        self._spool = spool

    def count(self, query: Filter) -> int:
        """The number of rows of a listing."""
        return self._page(query, 1, size=1).count

    def created_before(self, query: Filter, until: datetime) -> Iterator[list[Json]]:
        """Everything created before `until`, window by window, oldest first. Then the rows without a time."""
        first = TimeWindow(None, until)
        try:
            windows = [(first, self._window_count(_within(query, first)))]
        except Rejected as error:
            if error.status not in FILTER_REJECTED:
                raise
            yield from self.all_pages(query)  # this Platform cannot filter by time
            return
        read: list[tuple[TimeWindow, int]] = []
        while windows:
            window, count = windows.pop()
            halves = self._halves(query, window, count)
            if halves:
                windows.extend(reversed(halves))
            else:
                read.append((window, (yield from self.all_pages(_within(query, window))) if count else 0))
        yield from self._late_rows(query, until, read)

    def _late_rows(
        self, query: Filter, until: datetime, read: Sequence[tuple[TimeWindow, int]]
    ) -> Iterator[list[Json]]:
        """Rows that were added during the scan with an older time, and rows without a time."""
        since = {"AND": [query, {"created_at": {"gte": format_time(until)}}]}
        expected = self.count(query) - self.count(since)
        found = sum(rows for _, rows in read)
        if expected <= found:
            return
        for window, rows in read if len(read) > 1 else ():
            if self.count(_within(query, window)) > rows:
                found += (yield from self.all_pages(_within(query, window), again=True)) - rows
        if expected > found:
            yield from self.all_pages(query)

    def changed_between(self, query: Filter, since: str, until: datetime) -> Iterator[list[Json]]:
        """What was created or edited in this span; everything before `until` if this Platform has no such filter."""
        for times in _created_or_edited({"gte": since, "lt": format_time(until)}):
            if self._is_supported({"AND": [query, times]}):
                yield from self.all_pages({"AND": [query, times]})
                return
        yield from self.created_before(query, until)

    def changed_since(self, query: Filter, since: datetime) -> Iterator[list[Json]]:
        """What was created or edited since a moment, or only created, or nothing: by the filters of this Platform."""
        span = {"gte": format_time(since)}
        for times in (*_created_or_edited(span), {"created_at": span}):
            if self._is_supported({"AND": [query, times]}):
                yield from self.all_pages({"AND": [query, times]})
                return

    def _is_supported(self, query: Filter) -> bool:
        try:
            self.count(query)
        except Rejected as error:
            if error.status not in FILTER_REJECTED:
                raise
            return False
        return True

    def all_pages(self, query: Filter, *, again: bool = False) -> Generator[list[Json], None, int]:
        """All pages of a listing, read again until nothing changes meanwhile; returns the number of different rows.

        Rows that were announced but not delivered are added to `missing_rows`: at least one if the listing changed in
        every attempt, because after a deletion another row may slip unseen to the page before. `again` sends the
        requests even if the spool has the pages.
        """
        name = json.dumps(query, sort_keys=True)
        kept = self._spool.pages(name) if self._spool is not None and not again else None
        with closing(DistinctIds()) as ids, closing(DistinctIds()) as ids_now:
            if kept is not None:
                for rows in kept:
                    ids.add(list(_ids(rows)))
                    yield rows
                return ids.count()
            for _ in range(_TRIES):
                counts: set[int] = set()
                ids_now.close()
                for page in self._pages(query):
                    counts.add(page.count)
                    ids_now.add(list(_ids(page.rows)))
                    ids.add(list(_ids(page.rows)))
                    if self._spool is not None:
                        self._spool.add_page(name, page.rows)
                    yield page.rows
                if counts == {ids_now.count()}:  # otherwise a row was deleted, and those after it moved up
                    break
            else:
                self.missing_rows += max(1, max(counts) - ids.count())
                return ids.count()
            if self._spool is not None:
                self._spool.mark_complete(name)
            return ids.count()

    def _halves(self, query: Filter, window: TimeWindow, count: int) -> list[tuple[TimeWindow, int]]:
        """Two smaller windows with their counts; none if the window is small or narrow, or the filter has no effect."""
        halves = window.halves() if count > _WINDOW else None
        if halves is None:
            return []
        counts = [self._window_count(_within(query, half)) for half in halves]
        return [] if counts == [count, count] else list(zip(halves, counts, strict=True))

    def _window_count(self, query: Filter) -> int:
        """The number of rows of a window; a resumed scan has it in the spool."""
        name = json.dumps(query, sort_keys=True)
        known = self._spool.count(name) if self._spool is not None else None
        if known is None:
            known = self.count(query)
            if self._spool is not None:
                self._spool.set_count(name, known)
        return known

    def _pages(self, query: Filter) -> Iterator[Page]:
        first = self._page(query, 1)
        yield first
        number, last = 1, first.last
        repeated = RepeatedPages(f"the memories at {self._http.base_url}")
        expected = -(-first.count // PAGE)
        pool = ThreadPoolExecutor(_PARALLEL)
        try:
            while not last:
                ahead = range(number + 1, max(number + 1, min(number + _PARALLEL, expected)) + 1)
                for page in pool.map(lambda each: self._page(query, each), ahead):
                    number += 1
                    last = page.last
                    repeated.note(page.rows)
                    yield page
                    if last:
                        break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a request may wait for minutes, an interrupt must not

    def _page(self, query: Filter, number: int, *, size: int | None = None) -> Page:
        body = {"filters": query, "show_expired": True}
        try:
            answer = self._http.request(
                "POST", "/v3/memories/", params={"page": number, "page_size": size or PAGE}, body=body
            ).value
        except Rejected as error:
            if error.status == 404 and number > 1:  # rows were deleted, and the page no longer exists
                return Page(0, [], last=True)
            raise
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise Incomplete(f"{self._http.base_url} answered a listing with something else")
        rows = answer["results"]
        count = answer.get("count")
        return Page(count if isinstance(count, int) else len(rows), rows, last=not answer.get("next"))


def requests_for(rows: int) -> int:
    """Estimated number of requests for a listing of this many rows: its pages, and two counts for each window.

    Splitting leaves windows between half full and full, and the last page of a window half full.
    """
    windows = -(-rows * 4 // (_WINDOW * 3)) if rows > _WINDOW else 1
    return -(-rows // PAGE) + windows // 2 + 2 * windows + 6


def _created_or_edited(span: Filter) -> tuple[Filter, Filter]:
    edited, created = {"updated_at": span}, {"created_at": span}
    return {"OR": [edited, created]}, edited


def _within(query: Filter, window: TimeWindow) -> Filter:
    return {"AND": [query, window.as_filter()]}


def _ids(rows: list[Json]) -> Iterator[str]:
    return (str(row.get("id")) for row in rows if isinstance(row, dict))
