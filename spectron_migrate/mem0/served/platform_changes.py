"""Finds what changed on the Platform since it was read in full, by times and by a count that only deletions change.

A listing of what was created or edited gives the rows. The number of memories created before a moment, which the
Platform counts, can only fall later on. So it shows whether one was deleted; which one, only a reading of everything
shows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import Changed
from spectron_migrate.mem0.seen_ids import SeenIds
from spectron_migrate.mem0.served.history import PlatformHistory
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.served.platform_listing import ANY_OWNER, Filter, ListingReader
from spectron_migrate.records import Json, Memory, format_time

OVERLAP = timedelta(minutes=2)
"""An edit may take this long to appear in the listing."""
MOST_CHANGED = 5_000
"""If more rows than this changed, everything is read."""
_CLOCK_STEP = timedelta(seconds=1)
"""The Platform reports its time in whole seconds, rounded down."""
_ATTEMPTS = 2
"""A row may be counted before it is listed."""
_EARLY = datetime(2000, 1, 1, tzinfo=UTC)
_LATE = datetime(2200, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CreationTimes:
    """When the memories were created, as sorted numbers. A memory without a time makes a count by time impossible."""

    def __init__(self) -> None:
        self._times: array[int] = array("q")
        self.is_known = True
        """False: a row has no time."""

    def add(self, memories: Iterable[Memory]) -> None:
        """Add memories, each once."""
        for memory in memories:
            if memory.created_at is None:
                self.is_known = False
            else:
                self._times.append(_number(memory.created_at))

    def sort(self) -> None:
        """Sort the times, after all were added."""
        self._times = array("q", sorted(self._times))

    def insert(self, memory: Memory) -> None:
        """Add one more, after `sort`."""
        if memory.created_at is not None:
            insort(self._times, _number(memory.created_at))

    def before(self, moment: datetime) -> int:
        """How many were created before a moment."""
        return bisect_left(self._times, _number(format_time(moment)))

    @property
    def count(self) -> int:
        return len(self._times)


class PlatformChanges:
    """Reads what changed in one project of the Platform: a handful of requests."""

    def __init__(
        self,
        http: JsonClient,
        history: PlatformHistory,
        seen: SeenIds,
        times: CreationTimes,
        with_history: Callable[[Memory], Memory],
        *,
        changed: Filter,
        began: datetime,
    ) -> None:
        """`http`, `seen` and `times` are taken over.

        `changed`: this Platform's filter for created or edited memories, with None for the span. `began`: when the last
        reading began, by the Platform's clock.
        """
        self.history = history
        self._http = http
        self._seen = seen
        self._times = times
        self._with_history = with_history
        self._changed = changed
        self._began = began
        self._with_times: dict[tuple[str, str | None, str], Memory] = {}
        """Memories of the last round whose history was requested, because the overlap lists them again."""

    def changed(self, *, now: datetime) -> Changed | None:
        """See `ChangesReader.changed`."""
        began = server_time(self._http)
        if began is None or began < self._began:
            return None
        try:
            for _ in range(_ATTEMPTS):
                listed = self._listed(self._began - OVERLAP, began + _CLOCK_STEP, now)
                if listed is None:
                    return None
                fresh = set(self._seen.not_seen(listed))
                expected = self._times.before(began) + _created_before(listed, fresh, began)
                if self._count(began) == expected:
                    return self._changed_rows(listed, fresh, began)
        except (Rejected, Incomplete):
            pass
        return None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._seen.close()

    def _listed(self, since: datetime, until: datetime, now: datetime) -> dict[str, Memory] | None:
        """What was created or edited in this span; None if it is too much, or not certain.

        Nothing is added to this listing while its pages are read, once `until` has passed.
        """
        reader = ListingReader(self._http, None)
        query = {"AND": [ANY_OWNER, with_span(self._changed, since, until)]}
        if reader.count(query) > MOST_CHANGED:
            return None
        rows: list[Json] = [row for page in reader.all_pages(query) for row in page]
        memories: dict[str, Memory] = {}
        for row in rows:
            memory = normalise(row, now=now)
            if not isinstance(memory, Memory) or memory.created_at is None:
                return None
            memories[memory.id] = memory
        return None if reader.missing_rows else memories

    def _count(self, began: datetime) -> int:
        return ListingReader(self._http, None).count({"AND": [ANY_OWNER, {"created_at": {"lt": format_time(began)}}]})

    def _changed_rows(self, listed: dict[str, Memory], fresh: set[str], began: datetime) -> Changed:
        with_times = {
            (each.id, each.updated_at, each.memory): self._with_times.get((each.id, each.updated_at, each.memory))
            or self._with_history(each)
            for each in listed.values()
        }
        self._seen.add_memories(listed[one] for one in fresh)
        for one in fresh:
            self._times.insert(listed[one])
        self._began, self._with_times = began, with_times
        return Changed(list(with_times.values()), [], frozenset(), self._times.count)


def filter_of_changes(http: JsonClient) -> Filter | None:
    """This Platform's filter for created or edited memories, shown to have an effect; None if there is none."""
    reader = ListingReader(http, None)
    try:
        # A Platform that has no edit times would still find memories by their creation time.
        if not reader.count({"AND": [ANY_OWNER, with_span({"updated_at": None}, _EARLY, _LATE)]}):
            return None
    except Rejected:
        return None
    for form in ({"OR": [{"updated_at": None}, {"created_at": None}]}, {"updated_at": None}):
        try:
            before = reader.count(ANY_OWNER)
            found = reader.count({"AND": [ANY_OWNER, with_span(form, _EARLY, _LATE)]})
            later = reader.count({"AND": [ANY_OWNER, with_span(form, _LATE, _LATE + timedelta(days=1))]})
            if min(before, after := reader.count(ANY_OWNER)) <= found <= max(before, after) and not later:
                return form
        except Rejected:
            continue
    return None


def with_span(form: Filter, since: datetime, until: datetime) -> Filter:
    """A filter of `filter_of_changes` for a span of time."""
    if "OR" in form:
        return {"OR": [with_span(each, since, until) for each in form["OR"]]}
    return {name: {"gte": format_time(since), "lt": format_time(until)} for name in form}


def server_time(http: JsonClient) -> datetime | None:
    """The Platform's clock; None if it does not report it."""
    return http.request("GET", "/v1/ping/").date


def _created_before(listed: dict[str, Memory], ids: Iterable[str], moment: datetime) -> int:
    bound = format_time(moment)
    return sum((listed[one].created_at or "") < bound for one in ids)


def _number(time: str) -> int:
    return (datetime.fromisoformat(time.replace("Z", "+00:00")) - _EPOCH) // timedelta(microseconds=1)
