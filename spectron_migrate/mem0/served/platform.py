"""Mem0's Platform, over its HTTP interface: everything once, proven against what it counts itself.

First one listing of whatever has a user, agent, app or run; what changed since the scan began is listed at the
end. Only where that falls short of the Platform's own statistics are the owners themselves asked, a hundred at
a time, and only of the kinds that fall short. Requests cost time and quota, so how many is said before.
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
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.served.history import EventFeed, text_came
from spectron_migrate.mem0.served.http import Http, Rejected, checked_url
from spectron_migrate.mem0.served.platform_listing import EVERYBODY, NO_SUCH_FILTER, Filter, Lister, requests_for
from spectron_migrate.mem0.served.platform_spool import Spool
from spectron_migrate.mem0.tally import OWNER_FIELDS, Tally
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, counted

BASE_URL = "https://api.mem0.ai"
_TOTALS = {"user": "total_users", "agent": "total_agents", "app": "total_apps", "run": "total_runs"}
_EDITED = 2_000
"""How many edited memories have their history asked for; each is a request of its own."""

_OWNERS_AT_ONCE = 100
_TRIED_FIRST = 3
"""Owners whose own counts say whether the Platform understands a question about several at once."""


def platform_info(section: Mapping[str, Any], project: str = "") -> SourceInfo:
    """The account is the key's, which no setting tells; `account` names it where one address serves several."""
    base_url = checked_url(str(section.get("base_url") or BASE_URL), with_key=True)
    account = section.get("account")
    return SourceInfo(kind="platform", place=f"{base_url}#{account}" if account else base_url, provider=project)


class PlatformReader(ReaderBase):
    """One project of the Platform."""

    def __init__(self, section: Mapping[str, Any], *, now: datetime, sleep: Sleep | None) -> None:
        """Greet the Platform; raises KeyRefused without a good key, Unreachable where it does not answer."""
        super().__init__()
        key = section.get("api_key")
        if not key:
            raise KeyRefused("there is no key for Mem0's Platform", hint="set MEM0_API_KEY")
        self._now = now
        self._http = Http(str(section.get("base_url") or BASE_URL), {"Authorization": f"Token {key}"}, sleep=sleep)
        self._tally = Tally()
        self._filters = Filters()
        self._since: str | None = None
        self._spool: Spool | None = None
        self._missing: int | None = None
        self._edited = _EDITED
        self._wanted: int | None = None
        self._proven = True
        self._resumed = False
        self.history = EventFeed(self._http, self.notes)
        try:
            answer = self._http.ask("GET", "/v1/ping/")
        except BaseException:
            self.close()
            raise
        project = answer.value.get("project_id") if isinstance(answer.value, dict) else None
        self.info = platform_info(section, str(project or ""))
        self._began = answer.date or datetime.now(UTC)

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Ask for these users (or agents, or runs) alone, and only for what changed since then."""
        self._filters, self._since = filters, since

    def resume_in(self, folder: Path) -> datetime | None:
        """Keep fetched pages in the folder; when the scan began that is gone on with, if there is one."""
        told = {
            "place": self.info.place,
            "project": self.info.provider,
            "owners": self._bases(),
            "since": self._since,
        }
        self._spool = Spool(folder, told)
        began = self._spool.began(self._now)
        self._resumed = began is not None
        self._began = began or self._began
        return began

    def finished(self) -> None:
        """What was fetched is in the dump: a scan that ran to its end is not gone on with."""
        if self._spool is not None and self._missing is not None:
            self._spool.remove()

    def native_count(self) -> int | None:
        """What the Platform's statistics say; None where the scan is narrower, or there are none."""
        if self._filters or self._since is not None:
            return None
        try:
            total = self._http.get("/v1/stats/").get("total_memories")
        except (Rejected, AttributeError):
            return None
        return total if isinstance(total, int) else None

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every memory; what changed during the scan comes again at its end."""
        self._missing = None
        self._tally.clear()
        if self._spool is not None:
            self._spool.open(self._began, resumed=self._resumed)
            self._resumed = False
        lister = Lister(self._http, self._spool)
        is_whole = self._since is None and not self._filters
        if is_whole:
            self._announce_scan()
        for base in self._bases():
            if self._since is not None:
                yield from self._told(lister.changed(base, self._since, self._began))
            else:
                yield from self._told(lister.frozen(base, self._began))
            # What comes after the beginning belongs to the next scan: it is taken where it can be had
            yield from self._told(Lister(self._http, None).fresh(base, self._began))
        if is_whole:
            yield from self._told(self._of_owners_that_fall_short(lister))
            if self._behind_statistics():  # some may have been deleted meanwhile
                self._wanted = self.native_count()
        self._missing = max(lister.short, self._behind_statistics(), int(is_whole and not self._proven))

    def missing(self) -> int | None:
        """Rows that listings announced and did not give, or that the statistics know beyond those given."""
        return self._missing

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._http.close()
        self._tally.close()
        if self._spool is not None:
            self._spool.close()

    def _bases(self) -> list[Filter]:
        """The listings that together hold what was asked for.

        The Platform's guides disagree whether `{"user_id": x}` shows rows that have a run or an agent too, so
        those are asked for as well.
        """
        for kind, ids in (("user", self._filters.users), ("agent", self._filters.agents), ("run", self._filters.runs)):
            if ids:
                return [listing for one in sorted(ids) for listing in _of_owners(kind, [one])]
        return [EVERYBODY]

    def _told(self, pages: Iterator[list[Json]]) -> Iterator[Memory | Skipped]:
        for rows in pages:
            told = [normalise(row, now=self._now) for row in rows]
            self._tally.give(row for row in told if isinstance(row, Memory))
            for row in told:
                yield self._with_history(row) if isinstance(row, Memory) else row

    def _with_history(self, memory: Memory) -> Memory:
        """An edit may have been one of metadata alone: only history tells when the text came to be."""
        if memory.text_at_source != "updated_at" or self._edited == 0:
            return memory
        self._edited -= 1
        if self._edited == 0:
            self.notes.append(
                f"more than {_EDITED:,} memories were edited: for the others the time of the last edit is taken "
                "as the time of their text"
            )
        try:
            events = self._http.get(f"/v1/memories/{quote(memory.id, safe='')}/history/")
        except Rejected:
            return memory
        came = text_came(events, memory.memory)
        return memory if came is None else replace(memory, text_at=came, text_at_source="history")

    def _of_owners_that_fall_short(self, lister: Lister) -> Iterator[list[Json]]:
        """Ask the owners of the kinds of which fewer were seen than there are, until the statistics are met."""
        self._wanted, self._proven = self.native_count(), True
        if self._is_caught_up():
            return
        try:
            first = self._entities(1)
        except Rejected:
            self._proven = self._wanted is not None
            if not self._proven:
                self.notes.append("this Platform gives neither statistics nor owners, so nothing proves the listing")
            return
        totals = {kind: total for kind, name in _TOTALS.items() if isinstance(total := first.get(name), int)}
        short = {kind for kind, total in totals.items() if self._tally.owners(kind) < total}
        if not short and self._wanted is None:
            return
        short = short or set(OWNER_FIELDS)
        owners = (one for one in self._owners(first) if one[0] in short)
        tried = list(islice(owners, _TRIED_FIRST))
        at_once = _OWNERS_AT_ONCE if _are_understood_together(lister, tried) else 1
        self._announce_owners(short, sum(totals.get(kind, 0) for kind in short), at_once)
        for kind, names in _batches(chain(tried, owners), at_once):
            for listing in _of_owners(kind, names):
                yield from lister.frozen(listing, self._began)
            if self._is_caught_up():
                return

    def _announce_scan(self) -> None:
        total = self.native_count()
        if total is not None and total > len(self._spool or ()):
            missing = total - len(self._spool or ())
            self._announce(f"the Platform counts {counted(total, 'memory')}", requests_for(missing))

    def _announce_owners(self, short: set[str], owners: int, at_once: int) -> None:
        known = "" if self._wanted is None else f"the Platform counts {counted(self._wanted, 'memory')}, "
        each = "one by one" if at_once == 1 else f"{at_once} at a time"
        self._announce(
            f"{known}its listing gave {self._tally.count():,}: asking {owners:,} owners "
            f"({', '.join(sorted(short))}) {each}",
            -(-owners // at_once) * len(OWNER_FIELDS),
        )

    def _announce(self, what: str, requests: int) -> None:
        minutes = requests * self._http.seconds_a_request() / 60
        self.reporter.info(
            f"{what}: about {requests:,} requests or more, which count against the plan's quota, "
            f"{f'{minutes:,.0f} min' if minutes >= 1 else 'less than a minute'}"
        )

    def _is_caught_up(self) -> bool:
        return self._wanted is not None and not self._behind_statistics()

    def _behind_statistics(self) -> int:
        """How many memories fewer were given than the statistics counted."""
        return max(0, (self._wanted or 0) - self._tally.count())

    def _owners(self, page: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
        number = 1
        while True:
            for one in page.get("results") or []:
                if one.get("type") in OWNER_FIELDS and one.get("name"):  # filters take the name; `id` is another thing
                    yield one["type"], str(one["name"])
            if not page.get("next"):
                return
            number += 1
            page = self._entities(number)

    def _entities(self, number: int) -> dict[str, Json]:
        told = self._http.get("/v1/entities/", page=number, page_size=100)
        return told if isinstance(told, dict) else {"results": told, "next": None}


def _of_owners(kind: str, names: Sequence[str]) -> list[Filter]:
    """All rows of these owners: alone, and with every other kind of owner beside."""
    own = {OWNER_FIELDS[kind]: names[0] if len(names) == 1 else {"in": list(names)}}
    beside = [{"AND": [own, {field: "*"}]} for other, field in OWNER_FIELDS.items() if other != kind]
    return [own, *beside]


def _are_understood_together(lister: Lister, owners: Sequence[tuple[str, str]]) -> bool:
    """Whether a question about several owners counts what questions about each of them count."""
    kinds = {kind for kind, _ in owners}
    names = [name for _, name in owners]
    if len(kinds) != 1 or len(names) < _TRIED_FIRST:
        return False
    [kind] = kinds
    try:
        together = lister.count(_of_owners(kind, names)[0])
    except Rejected as error:
        if error.status not in NO_SUCH_FILTER:
            raise
        return False
    return together == sum(lister.count(_of_owners(kind, [name])[0]) for name in names)


def _batches(owners: Iterable[tuple[str, str]], size: int) -> Iterator[tuple[str, list[str]]]:
    """Owners of one kind that follow each other, so many at a time."""
    for kind, group in groupby(owners, key=itemgetter(0)):
        while names := [name for _, name in islice(group, size)]:
            yield kind, names
