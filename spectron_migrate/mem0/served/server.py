"""Reads a self-hosted Mem0 server over its REST API.

A listing silently ends at 1,000 rows and has no pages. A listing of that length is therefore repeated by agent and by
run, and then as a search, which has no such limit but costs one embedding. The server's own count for each owner proves
the result; if it cannot be proven, the database behind the server can be read instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, KeyRefused
from spectron_migrate.mem0.addresses import checked_url
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import ReaderBase, Sleep
from spectron_migrate.mem0.seen_ids import SeenIds
from spectron_migrate.mem0.served.history import ServerHistory, text_changed_at
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, counted

_LISTING_LIMIT = 1_000
_COUNTED_ROWS = 10_000
"""The server counts owners only in its first rows. With more rows than this, its counts prove nothing."""

_UNLIMITED = 10_000_000
_FIELDS = {"user": "user_id", "agent": "agent_id", "run": "run_id"}
READ_THE_DATABASE = (
    "read the server's Postgres itself, which has no such limit: --mem0-config with its pgvector settings"
)


def server_info(section: Mapping[str, Any]) -> SourceInfo:
    """The server at this address. Keys of different users see different rows, so `account` may tell them apart."""
    base_url = checked_url(str(section.get("base_url") or ""), with_key=True)
    account = section.get("account")
    return SourceInfo(kind="server", place=f"{base_url}#{account}" if account else base_url, provider="server")


class ServerReader(ReaderBase):
    """Reads the rows of one self-hosted server that one key may see."""

    def __init__(self, section: Mapping[str, Any], *, now: datetime, sleep: Sleep | None) -> None:
        """Request the owners; raises KeyRefused without a valid key, Unreachable if the server does not answer."""
        super().__init__()
        key = section.get("api_key")
        if not key:
            raise KeyRefused("there is no key for the Mem0 server", hint="set MEM0_API_KEY")
        self.info = server_info(section)
        self._now = now
        self._http = JsonClient(str(section["base_url"]), {"X-API-Key": str(key)}, sleep=sleep)
        self._seen = SeenIds()
        self.history = ServerHistory(self._http, self._seen.ids)
        self._filters = Filters()
        self._missing: int | None = None
        self._shows_expired = True
        try:
            self._totals = self._count_by_owner()
        except BaseException:
            self.close()
            raise

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read only these users (or agents, or runs)."""
        self._filters = filters

    def native_count(self) -> int | None:
        """Always None: the server counts only by owner, and a row may have several."""
        return None

    def progress_total(self) -> int | None:
        """An estimate, because a row may be counted for a user, an agent and a run."""
        by_kind = Counter(dict.fromkeys(_FIELDS, 0))
        for (kind, _), rows in self._totals.items():
            by_kind[kind] += rows
        return max(by_kind.values())

    def rows(self) -> Iterator[Memory | Skipped]:
        """The list of everything if it is complete, otherwise the lists of each owner."""
        self._missing = None
        self._seen.clear()
        self._totals = self._count_by_owner()
        if not self._filters:
            rows = self._list_all()
            yield from self._converted(rows)
            if rows and len(rows) < _LISTING_LIMIT:
                self._missing = 0
                return
        for kind, owner in self._owners_to_read():
            if not self._has_all(kind, owner):
                yield from self._of_owner(kind, owner)
        self._missing = self._missing_rows()

    def missing(self) -> int | None:
        """How many rows the server counts but did not deliver; at least one if its counts prove nothing."""
        return self._missing

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._http.close()
        self._seen.close()

    def _of_owner(self, kind: str, owner: str) -> Iterator[Memory | Skipped]:
        own = {_FIELDS[kind]: owner}
        rows = self._list(own)
        yield from self._converted(rows)
        if len(rows) < _LISTING_LIMIT or self._has_all(kind, owner):
            return
        for other, name in self._totals:
            if other != kind and other != "user":
                yield from self._converted(self._list({**own, _FIELDS[other]: name}))
                if self._has_all(kind, owner):
                    return
        yield from self._converted(self._search(own))

    def _has_all(self, kind: str, owner: str) -> bool:
        """Whether as many rows were read as the server counts; False if its counts prove nothing."""
        if sum(self._totals.values()) >= _COUNTED_ROWS:
            return False
        return self._seen.row_count_of(kind, owner) >= self._totals.get((kind, owner), _UNLIMITED)

    def _missing_rows(self) -> int:
        short = {
            (kind, owner): self._totals[kind, owner] - self._seen.row_count_of(kind, owner)
            for kind, owner in self._owners_to_read()
            if self._totals.get((kind, owner), 0) > self._seen.row_count_of(kind, owner)
        }
        if short:
            kind, owner = max(short, key=lambda each: short[each])
            self.notes.append(
                f"the server counts {counted(self._totals[kind, owner], 'memory')} of {kind} {owner!r} but returned "
                f"{self._seen.row_count_of(kind, owner):,}; {READ_THE_DATABASE}"
            )
        elif self._seen.count() >= _COUNTED_ROWS:
            self.notes.append(
                f"the server counts only its first {_COUNTED_ROWS:,} rows, so nothing proves that these are all; "
                f"{READ_THE_DATABASE}"
            )
            return 1
        return max(short.values(), default=0)

    def _owners_to_read(self) -> list[tuple[str, str]]:
        """The owners in the filters, or all."""
        for kind, ids in (("user", self._filters.users), ("agent", self._filters.agents), ("run", self._filters.runs)):
            if ids:
                return [(kind, one) for one in sorted(ids)]
        return list(self._totals)

    def _count_by_owner(self) -> dict[tuple[str, str], int]:
        """Number of memories by (kind, owner), according to the server."""
        answer = self._http.get("/entities")
        if not isinstance(answer, list):
            raise Incomplete(f"{self._http.base_url} answered /entities with something that is not a list of owners")
        return {
            (one["type"], str(one["id"])): int(one.get("total_memories") or 0)
            for one in answer
            if isinstance(one, dict) and one.get("type") in _FIELDS and one.get("id") is not None
        }

    def _list_all(self) -> list[Json]:
        """The list of everything; empty if the key is not an administrator's."""
        try:
            return self._list({})
        except (KeyRefused, Rejected):
            return []

    def _list(self, owner: Mapping[str, str]) -> list[Json]:
        expired = {"show_expired": "true"} if self._shows_expired else {}
        try:
            return self._results(self._http.get("/memories", **owner, **expired, top_k=_LISTING_LIMIT))
        except Rejected as error:
            if error.status != 422 or not self._shows_expired:
                raise
            self._shows_expired = False  # an older server
            return self._list(owner)

    def _search(self, owner: Mapping[str, str]) -> list[Json]:
        body = {"query": "memory", "filters": dict(owner), "top_k": _UNLIMITED, "threshold": 0, "show_expired": True}
        try:
            return self._results(self._http.post("/search", body))
        except Rejected as error:
            self.notes.append(f"the server's search could not replace its listing: {error.message}")
            return []

    def _results(self, answer: Json) -> list[Json]:
        rows = answer.get("results") if isinstance(answer, dict) else answer
        if not isinstance(rows, list):
            raise Incomplete(f"{self._http.base_url} answered a listing with something else")
        return rows

    def _converted(self, rows: list[Json]) -> Iterator[Memory | Skipped]:
        converted = [normalise(row, now=self._now) for row in rows]
        new = self._seen.add_memories(row for row in converted if isinstance(row, Memory))
        for row in converted:
            if not isinstance(row, Memory):
                yield row
            elif row.id in new:
                new.remove(row.id)
                yield self._with_history(row)

    def _with_history(self, memory: Memory) -> Memory:
        """Take the time of the text from the history, because an edit may have changed the metadata alone."""
        if memory.text_at_source != "updated_at":
            return memory
        try:
            text_at = text_changed_at(self._http.get(f"/memories/{quote(memory.id, safe='')}/history"), memory.memory)
        except Rejected:
            return memory
        return memory if text_at is None else replace(memory, text_at=text_at, text_at_source="history")
