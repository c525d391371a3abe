"""What is noted around a write to Mem0: whose reads have to wait for it, and what it stored, for the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectron_migrate.adapter.captures import Captures
from spectron_migrate.adapter.catalogue import Catalogue, NoCatalogue
from spectron_migrate.adapter.counters import ProcessCounters
from spectron_migrate.adapter.mem0_calls import Mem0Calls, owners_of
from spectron_migrate.adapter.mem0_methods import BY_MEMORY_ID
from spectron_migrate.state.routing import Routing
from spectron_migrate.state.written import Written

LATE_S = 60.0
"""What Mem0 only accepted, or what a network cut off, may become visible this much later."""
RECENT = 10_000
"""Memories that this process added, whose owners are known before the catalogue has them."""
_ON_ITS_WAY = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "asyncio", "mem0.exceptions")


class WriteTracker:
    """One per adapter."""

    def __init__(
        self,
        calls: Mem0Calls,
        counters: ProcessCounters,
        written: Written,
        catalogue: Catalogue,
        *,
        routing: Callable[[], Routing],
        moment: Callable[[str | None], float],
        captures: Callable[[Routing], Captures | None],
    ) -> None:
        """`moment`: of an `as_of`; `captures`: where writes are captured, while the cutover says so."""
        self.calls = calls
        self.counters = counters
        self.written = written
        self.routing = routing
        self.moment = moment
        self.captures = captures
        self._catalogue = catalogue
        self._recent: dict[str, list[str]] = {}

    def around(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _TrackedWrite:
        """Reads of what a write is about come from Mem0 until it is known to be in Spectron.

        As a context, it gives what is to be called with Mem0's answer.
        """
        return _TrackedWrite(self, method, args, kwargs)

    def owners(self, memory_id: str) -> list[str]:
        """Who can find a memory; nobody by name where that cannot be told, and then it could be anybody."""
        recent = self._recent.get(memory_id)
        if recent is not None:
            return recent
        try:
            known = self._catalogue.memory(memory_id)
        except NoCatalogue:
            return []
        return list(known[0].entity_ids.values()) if known is not None else []

    def learn(self, rows: Sequence[dict[str, Any]], about: list[str]) -> None:
        """Memories that were added just now are theirs."""
        if len(self._recent) >= RECENT:
            self._recent = {}
        for row in rows:
            if row.get("event") == "ADD" and row.get("id"):
                self._recent[str(row["id"])] = about


class _TrackedWrite:
    """One write. Written out, because every `contextmanager` would cost an application's call more than its notes."""

    def __init__(self, writes: WriteTracker, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._writes = writes
        self._method = method
        self._args = args
        self._kwargs = kwargs
        self._later_s = 0.0

    def __enter__(self) -> Callable[[Any], None]:
        self._routing = self._writes.counters.began(self._writes.routing)
        if self._routing.phase == "mem0":
            return _unnoted
        try:
            self._begin()
        except BaseException:
            self._writes.counters.ended(self._routing.epoch)
            raise
        return self._answered

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if self._routing.phase != "mem0":
                self._end(error)
        finally:
            self._writes.counters.ended(self._routing.epoch)

    def _begin(self) -> None:
        writes = self._writes
        given = writes.calls.named(self._method, self._args, self._kwargs)
        memory_id = str(given.get("memory_id")) if self._method in BY_MEMORY_ID else None
        self._about = list(owners_of(given).values()) if memory_id is None else writes.owners(memory_id)
        captures = writes.captures(self._routing)
        self._call = captures.begin(self._method, given, self._about, memory_id) if captures is not None else None
        self._captured = captures is None or self._call is not None
        self._as_of = writes.moment(self._routing.as_of)
        # Before the call too: a process that dies in the middle may have written, and nothing says so afterwards.
        writes.written.note(self._about, max(time.time(), self._as_of))

    def _answered(self, answer: Any) -> None:
        rows = rows_of(answer)
        self._later_s = LATE_S if is_pending(rows) else 0.0
        if self._method == "add" and self._about:
            self._writes.learn(rows, self._about)
        if self._call is not None:
            self._call.returned(answer)

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self._later_s = LATE_S if _may_come_late(error) else 0.0
        captured = self._call.end(self._later_s) if self._call is not None else self._captured
        # A clock that was put back must not let this write look older than what the routing tells about.
        self._writes.written.note(self._about, max(time.time(), self._as_of) + self._later_s, captured=captured)


def _unnoted(_: Any) -> None:
    """No cutover is under way."""


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """What an answer of Mem0's lists, in any of its forms: all of them are plain JSON."""
    rows = answer.get("results", answer) if isinstance(answer, dict) else answer
    rows = [rows] if isinstance(rows, dict) else rows
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def is_pending(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether Mem0 only took note: the hosted one extracts memories later."""
    return any(row.get("status") == "PENDING" or "event_id" in row for row in rows)


def _may_come_late(error: BaseException) -> bool:
    """Whether a call was cut off on its way, or cancelled, so that Mem0 may still be at work."""
    return type(error).__module__.startswith(_ON_ITS_WAY)
