"""A self-hosted Mem0 server, over its REST interface.

One listing ends at 1,000 rows without a word and has no pages, so a listing that long is asked again by agent
and by run, and then by a search, which has no such end but costs one embedding. What the server counts for
each owner proves it; where it cannot be proven, the database behind the server can be read instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, KeyRefused
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.served.history import HistoryOfEach, text_came
from spectron_migrate.mem0.served.http import Http, Rejected, checked_url
from spectron_migrate.mem0.tally import Tally
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, counted

_CAP = 1_000
_SCANNED = 10_000
"""The server counts owners over so many rows at most: beyond that its counts say nothing."""

_NO_CAP = 10_000_000
_FIELDS = {"user": "user_id", "agent": "agent_id", "run": "run_id"}
SQL_WAY = "read the server's Postgres itself, which has no such end: --mem0-config with its pgvector settings"


def server_info(section: Mapping[str, Any]) -> SourceInfo:
    """The server's address; keys of different users see different rows, so `account` may tell them apart."""
    base_url = checked_url(str(section.get("base_url") or ""), with_key=True)
    account = section.get("account")
    return SourceInfo(kind="server", place=f"{base_url}#{account}" if account else base_url, provider="server")


class ServerReader(ReaderBase):
    """One self-hosted server, as one key sees it."""

    def __init__(self, section: Mapping[str, Any], *, now: datetime, sleep: Sleep | None) -> None:
        """Ask for the owners; raises KeyRefused without a good key, Unreachable where nothing answers."""
        super().__init__()
        key = section.get("api_key")
        if not key:
            raise KeyRefused("there is no key for the Mem0 server", hint="set MEM0_API_KEY")
        self.info = server_info(section)
        self._now = now
        self._http = Http(str(section["base_url"]), {"X-API-Key": str(key)}, sleep=sleep)
        self._tally = Tally()
        self.history = HistoryOfEach(self._http, self._tally.ids)
        self._filters = Filters()
        self._missing: int | None = None
        self._shows_expired = True
        try:
            self._totals = self._owners()
        except BaseException:
            self.close()
            raise

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Ask for these users (or agents, or runs) alone."""
        self._filters = filters

    def native_count(self) -> int | None:
        """The server counts by owner alone; a row may have several, so they do not add up to a total."""
        return None

    def extent(self) -> int | None:
        """About: a row may count for a user, an agent and a run."""
        by_kind = Counter(dict.fromkeys(_FIELDS, 0))
        for (kind, _), rows in self._totals.items():
            by_kind[kind] += rows
        return max(by_kind.values())

    def rows(self) -> Iterator[Memory | Skipped]:
        """The list of everybody where it is whole, else owner by owner."""
        self._missing = None
        self._tally.clear()
        self._totals = self._owners()
        if not self._filters:
            everybody = self._everybody()
            yield from self._told(everybody)
            if everybody and len(everybody) < _CAP:
                self._missing = 0
                return
        for kind, owner in self._wanted():
            if not self._has_all(kind, owner):
                yield from self._of_owner(kind, owner)
        self._missing = self._shortfall()

    def missing(self) -> int | None:
        """How many rows the server counts beyond those it gave; at least one where its counts end too early."""
        return self._missing

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._http.close()
        self._tally.close()

    def _of_owner(self, kind: str, owner: str) -> Iterator[Memory | Skipped]:
        own = {_FIELDS[kind]: owner}
        rows = self._listed(own)
        yield from self._told(rows)
        if len(rows) < _CAP or self._has_all(kind, owner):
            return
        for other, name in self._totals:
            if other != kind and other != "user":
                yield from self._told(self._listed({**own, _FIELDS[other]: name}))
                if self._has_all(kind, owner):
                    return
        yield from self._told(self._searched(own))

    def _has_all(self, kind: str, owner: str) -> bool:
        """As many rows as the server counts, where its counts can be believed."""
        if sum(self._totals.values()) >= _SCANNED:
            return False
        return self._tally.rows_of(kind, owner) >= self._totals.get((kind, owner), _NO_CAP)

    def _shortfall(self) -> int:
        short = {
            (kind, owner): self._totals[kind, owner] - self._tally.rows_of(kind, owner)
            for kind, owner in self._wanted()
            if self._totals.get((kind, owner), 0) > self._tally.rows_of(kind, owner)
        }
        if short:
            kind, owner = max(short, key=lambda each: short[each])
            self.notes.append(
                f"the server counts {counted(self._totals[kind, owner], 'memory')} of {kind} {owner!r} and gave "
                f"{self._tally.rows_of(kind, owner):,}; {SQL_WAY}"
            )
        elif self._tally.count() >= _SCANNED:
            self.notes.append(
                f"the server counts over its first {_SCANNED:,} rows only, so nothing proves these; {SQL_WAY}"
            )
            return 1
        return max(short.values(), default=0)

    def _wanted(self) -> list[tuple[str, str]]:
        """The owners to ask for: those filtered by, or all."""
        for kind, ids in (("user", self._filters.users), ("agent", self._filters.agents), ("run", self._filters.runs)):
            if ids:
                return [(kind, one) for one in sorted(ids)]
        return list(self._totals)

    def _owners(self) -> dict[tuple[str, str], int]:
        """How many memories each user, agent and run has, as the server counts them."""
        told = self._http.get("/entities")
        if not isinstance(told, list):
            raise Incomplete(f"{self._http.base_url} answered /entities with something that is no list of owners")
        return {
            (one["type"], str(one["id"])): int(one.get("total_memories") or 0)
            for one in told
            if isinstance(one, dict) and one.get("type") in _FIELDS and one.get("id") is not None
        }

    def _everybody(self) -> list[Json]:
        """The list without an owner, which only an administrator's key gets."""
        try:
            return self._listed({})
        except (KeyRefused, Rejected):
            return []

    def _listed(self, owner: Mapping[str, str]) -> list[Json]:
        expired = {"show_expired": "true"} if self._shows_expired else {}
        try:
            return self._results(self._http.get("/memories", **owner, **expired, top_k=_CAP))
        except Rejected as error:
            if error.status != 422 or not self._shows_expired:
                raise
            self._shows_expired = False  # an older server
            return self._listed(owner)

    def _searched(self, owner: Mapping[str, str]) -> list[Json]:
        body = {"query": "memory", "filters": dict(owner), "top_k": _NO_CAP, "threshold": 0, "show_expired": True}
        try:
            return self._results(self._http.post("/search", body))
        except Rejected as error:
            self.notes.append(f"the server's search does not stand in for its listing: {error.message}")
            return []

    def _results(self, told: Json) -> list[Json]:
        rows = told.get("results") if isinstance(told, dict) else told
        if not isinstance(rows, list):
            raise Incomplete(f"{self._http.base_url} answered a listing with something that is none")
        return rows

    def _told(self, rows: list[Json]) -> Iterator[Memory | Skipped]:
        told = [normalise(row, now=self._now) for row in rows]
        fresh = self._tally.give(row for row in told if isinstance(row, Memory))
        for row in told:
            if not isinstance(row, Memory):
                yield row
            elif row.id in fresh:
                fresh.remove(row.id)
                yield self._with_history(row)

    def _with_history(self, memory: Memory) -> Memory:
        """An edit may have been one of metadata alone: only history tells when the text came to be."""
        if memory.text_at_source != "updated_at":
            return memory
        try:
            came = text_came(self._http.get(f"/memories/{quote(memory.id, safe='')}/history"), memory.memory)
        except Rejected:
            return memory
        return memory if came is None else replace(memory, text_at=came, text_at_source="history")
