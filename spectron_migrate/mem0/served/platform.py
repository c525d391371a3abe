"""Reads a project of Mem0's Platform over HTTP, and proves that it is complete by the Platform's own statistics.

It first lists everything that has a user, agent, app or run, then what changed since the scan began. If the statistics
count more memories, it also lists by owner, a hundred owners in a request, but only for kinds of owners with missing
memories. Requests cost time and quota, so their estimated number is reported before they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import KeyRefused
from spectron_migrate.mem0.addresses import checked_url
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import ChangesReader, ReaderBase, Sleep
from spectron_migrate.mem0.repeated_pages import RepeatedPages
from spectron_migrate.mem0.seen_ids import OWNER_FIELDS, SeenIds
from spectron_migrate.mem0.served.history import PlatformHistory, text_changed_at
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.served.platform_changes import CreationTimes, PlatformChanges, filter_of_changes
from spectron_migrate.mem0.served.platform_listing import (
    ANY_OWNER,
    FILTER_REJECTED,
    Filter,
    ListingReader,
    requests_for,
)
from spectron_migrate.mem0.served.platform_spool import Spool
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, counted

BASE_URL = "https://api.mem0.ai"
_TOTALS = {"user": "total_users", "agent": "total_agents", "app": "total_apps", "run": "total_runs"}
_MOST_HISTORY_REQUESTS = 2_000
"""The most edited memories whose history is requested, each in a request of its own."""

_OWNERS_PER_REQUEST = 100
_OWNERS_IN_TEST = 3
"""How many owners are counted, one by one and together, to see whether the Platform can filter by several owners."""


def platform_info(section: Mapping[str, Any], project: str = "") -> SourceInfo:
    """The Platform at this address. No setting says which account a key belongs to, so `account` may name it."""
    base_url = checked_url(str(section.get("base_url") or BASE_URL), with_key=True)
    account = section.get("account")
    return SourceInfo(kind="platform", place=f"{base_url}#{account}" if account else base_url, provider=project)


class PlatformReader(ReaderBase):
    """Reads one project of the Platform."""

    def __init__(self, section: Mapping[str, Any], *, now: datetime, sleep: Sleep | None) -> None:
        """Connect to the Platform; raises KeyRefused without a valid key, Unreachable if it does not answer."""
        super().__init__()
        key = section.get("api_key")
        if not key:
            raise KeyRefused("there is no key for Mem0's Platform", hint="set MEM0_API_KEY")
        self._now = now
        self._http = JsonClient(
            str(section.get("base_url") or BASE_URL), {"Authorization": f"Token {key}"}, sleep=sleep
        )
        self._seen = SeenIds()
        self._filters = Filters()
        self._since: str | None = None
        self._spool: Spool | None = None
        self._missing: int | None = None
        self._history_requests_left = _MOST_HISTORY_REQUESTS
        self._expected: int | None = None
        self._proven = True
        self._resumed = False
        self._times = CreationTimes()
        self._is_taken_over = False
        self._history = self.history = PlatformHistory(self._http, self.notes)
        try:
            answer = self._http.request("GET", "/v1/ping/")
        except BaseException:
            self.close()
            raise
        project = answer.value.get("project_id") if isinstance(answer.value, dict) else None
        self.info = platform_info(section, str(project or ""))
        self._has_clock = answer.date is not None
        self._began = answer.date or datetime.now(UTC)

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read only these users (or agents, or runs), and only what changed since then."""
        self._filters, self._since = filters, since

    def resume_in(self, folder: Path) -> datetime | None:
        """Keep fetched pages in this folder; the start of the scan that is resumed, if there is one."""
        scan = {
            "place": self.info.place,
            "project": self.info.provider,
            "owners": self._base_filters(),
            "since": self._since,
        }
        self._spool = Spool(folder, scan)
        began = self._spool.began(self._now)
        self._resumed = began is not None
        self._began = began or self._began
        return began

    def discard_progress(self) -> None:
        """Remove the fetched pages of a finished scan, because they are in the dump."""
        if self._spool is not None and self._missing is not None:
            self._spool.remove()

    def native_count(self) -> int | None:
        """The number of memories in the Platform's statistics; None if the scan is narrower, or there are none."""
        if self._filters or self._since is not None:
            return None
        try:
            total = self._http.get("/v1/stats/").get("total_memories")
        except (Rejected, AttributeError):
            return None
        return total if isinstance(total, int) else None

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every memory; those that changed during the scan come again at its end."""
        self._missing = None
        self._times = CreationTimes()
        self._seen.clear()
        if self._spool is not None:
            self._spool.open(self._began, resumed=self._resumed)
            self._resumed = False
        reader = ListingReader(self._http, self._spool)
        is_whole = self._since is None and not self._filters
        if is_whole:
            self._announce_scan()
        for base in self._base_filters():
            if self._since is not None:
                yield from self._converted(reader.changed_between(base, self._since, self._began))
            else:
                yield from self._converted(reader.created_before(base, self._began))
            # Changes since the start belong to the next scan, but are taken if the Platform can list them
            yield from self._converted(ListingReader(self._http, None).changed_since(base, self._began))
        if is_whole:
            yield from self._converted(self._pages_of_owners_with_missing_rows(reader))
            if self._missing_from_statistics():  # some may have been deleted in the meantime
                self._expected = self.native_count()
        self._missing = max(reader.missing_rows, self._missing_from_statistics(), int(is_whole and not self._proven))

    def missing(self) -> int | None:
        """Rows that the listings announced or the statistics count, and that were not delivered."""
        return self._missing

    def changes(self) -> ChangesReader | None:
        """See `platform_changes`. None if a row has no time, or if no filter finds edited memories."""
        is_whole = self._since is None and not self._filters and self._missing == 0
        if not is_whole or not self._times.is_known or not self._has_clock:
            return None
        changed = filter_of_changes(self._http)
        if changed is None:
            return None
        self._times.sort()
        self._is_taken_over = True
        return PlatformChanges(
            self._http,
            self._history,
            self._seen,
            self._times,
            self._with_history,
            changed=changed,
            began=self._began,
        )

    def close(self) -> None:
        """Close the connections."""
        super().close()
        if not self._is_taken_over:
            self._http.close()
            self._seen.close()
        if self._spool is not None:
            self._spool.close()

    def _base_filters(self) -> list[Filter]:
        """The filters whose listings together hold what is to be read.

        The Platform's documentation is contradictory on whether `{"user_id": x}` matches rows that also have a run or
        an agent, so there are filters for these too.
        """
        for kind, ids in (("user", self._filters.users), ("agent", self._filters.agents), ("run", self._filters.runs)):
            if ids:
                return [listing for one in sorted(ids) for listing in _filters_of_owners(kind, [one])]
        return [ANY_OWNER]

    def _converted(self, pages: Iterator[list[Json]]) -> Iterator[Memory | Skipped]:
        for rows in pages:
            converted = [normalise(row, now=self._now) for row in rows]
            memories = {row.id: row for row in converted if isinstance(row, Memory)}
            self._times.add(memories[one] for one in self._seen.add_memories(memories.values()))
            self._times.is_known &= all(isinstance(row, Memory) for row in converted)
            for row in converted:
                yield self._with_history(row) if isinstance(row, Memory) else row

    def _with_history(self, memory: Memory) -> Memory:
        """Take the time of the text from the history, because an edit may have changed the metadata alone."""
        if memory.text_at_source != "updated_at" or self._history_requests_left == 0:
            return memory
        self._history_requests_left -= 1
        if self._history_requests_left == 0:
            self.notes.append(
                f"more than {_MOST_HISTORY_REQUESTS:,} memories were edited: for the others the time of the last "
                "edit is taken as the time of their text"
            )
        try:
            events = self._http.get(f"/v1/memories/{quote(memory.id, safe='')}/history/")
        except Rejected:
            return memory
        text_at = text_changed_at(events, memory.memory)
        return memory if text_at is None else replace(memory, text_at=text_at, text_at_source="history")

    def _pages_of_owners_with_missing_rows(self, reader: ListingReader) -> Iterator[list[Json]]:
        """List by owner, for kinds of owners with missing memories, until the rows match the statistics."""
        self._expected, self._proven = self.native_count(), True
        if self._has_all_counted():
            return
        try:
            first = self._entities(1)
        except Rejected:
            self._proven = self._expected is not None
            if not self._proven:
                self.notes.append(
                    "this Platform has neither statistics nor a list of owners, so nothing proves the listing"
                )
            return
        totals = {kind: total for kind, name in _TOTALS.items() if isinstance(total := first.get(name), int)}
        short = {kind for kind, total in totals.items() if self._seen.owner_count(kind) < total}
        if not short and self._expected is None:
            return
        short = short or set(OWNER_FIELDS)
        owners = (one for one in self._owners(first) if one[0] in short)
        first_owners = list(islice(owners, _OWNERS_IN_TEST))
        batch_size = _OWNERS_PER_REQUEST if _can_filter_several_owners(reader, first_owners) else 1
        self._announce_owners(short, sum(totals.get(kind, 0) for kind in short), batch_size)
        for kind, names in _batches(chain(first_owners, owners), batch_size):
            for listing in _filters_of_owners(kind, names):
                yield from reader.created_before(listing, self._began)
            if self._has_all_counted():
                return

    def _announce_scan(self) -> None:
        total = self.native_count()
        if total is not None and total > len(self._spool or ()):
            missing = total - len(self._spool or ())
            self._announce(f"the Platform counts {counted(total, 'memory')}", requests_for(missing))

    def _announce_owners(self, short: set[str], owners: int, batch_size: int) -> None:
        known = "" if self._expected is None else f"the Platform counts {counted(self._expected, 'memory')}, "
        each = "one by one" if batch_size == 1 else f"{batch_size} at a time"
        self._announce(
            f"{known}its listing gave {self._seen.count():,}: asking {counted(owners, 'owner')} "
            f"({', '.join(sorted(short))}) {each}",
            -(-owners // batch_size) * len(OWNER_FIELDS),
        )

    def _announce(self, what: str, requests: int) -> None:
        minutes = requests * self._http.mean_request_seconds() / 60
        self.reporter.info(
            f"{what}: about {counted(requests, 'request')} or more, which count against the quota of the plan, "
            f"{f'{minutes:,.0f} min' if minutes >= 1 else 'less than a minute'}"
        )

    def _has_all_counted(self) -> bool:
        return self._expected is not None and not self._missing_from_statistics()

    def _missing_from_statistics(self) -> int:
        """How many memories the statistics count that were not read."""
        return max(0, (self._expected or 0) - self._seen.count())

    def _owners(self, page: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
        number, repeated = 1, RepeatedPages(f"the owners at {self._http.base_url}")
        while True:
            repeated.note(page.get("results") or [])
            for one in page.get("results") or []:
                if one.get("type") in OWNER_FIELDS and one.get("name"):  # filters take the name, not the `id`
                    yield one["type"], str(one["name"])
            if not page.get("next"):
                return
            number += 1
            page = self._entities(number)

    def _entities(self, number: int) -> dict[str, Json]:
        page = self._http.get("/v1/entities/", page=number, page_size=100)
        return page if isinstance(page, dict) else {"results": page, "next": None}


def _filters_of_owners(kind: str, names: Sequence[str]) -> list[Filter]:
    """Filters for all rows of these owners: those without another owner, and those with each other kind of owner."""
    own = {OWNER_FIELDS[kind]: names[0] if len(names) == 1 else {"in": list(names)}}
    beside = [{"AND": [own, {field: "*"}]} for other, field in OWNER_FIELDS.items() if other != kind]
    return [own, *beside]


def _can_filter_several_owners(reader: ListingReader, owners: Sequence[tuple[str, str]]) -> bool:
    """Whether the count for several owners together is the sum of their single counts."""
    kinds = {kind for kind, _ in owners}
    names = [name for _, name in owners]
    if len(kinds) != 1 or len(names) < _OWNERS_IN_TEST:
        return False
    [kind] = kinds
    try:
        together = reader.count(_filters_of_owners(kind, names)[0])
    except Rejected as error:
        if error.status not in FILTER_REJECTED:
            raise
        return False
    return together == sum(reader.count(_filters_of_owners(kind, [name])[0]) for name in names)


def _batches(owners: Iterable[tuple[str, str]], size: int) -> Iterator[tuple[str, list[str]]]:
    """Batches of consecutive owners of the same kind."""
    for kind, group in groupby(owners, key=itemgetter(0)):
        while names := [name for _, name in islice(group, size)]:
            yield kind, names
