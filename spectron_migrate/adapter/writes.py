"""What is noted around a write to Mem0: whose reads have to wait for it, and what it stored, for the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from spectron_migrate.adapter.asked import Calls, owners_of
from spectron_migrate.adapter.captures import Captures
from spectron_migrate.adapter.catalogue import Catalogue, NoCatalogue
from spectron_migrate.adapter.surface import BY_MEMORY_ID
from spectron_migrate.adapter.tally import Tally
from spectron_migrate.state.routing import Routing
from spectron_migrate.state.written import Written

LATE_S = 60.0
"""What Mem0 only accepted, or what a network cut off, may become visible this much later."""
RECENT = 10_000
"""Memories that this process added, whose owners are known before the catalogue has them."""
_ON_ITS_WAY = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "asyncio", "mem0.exceptions")


class Writes:
    """One per adapter."""

    def __init__(
        self,
        calls: Calls,
        tally: Tally,
        written: Written,
        catalogue: Catalogue,
        captures: Callable[[Routing], Captures | None],
    ) -> None:
        """`captures`: where writes are captured, while the cutover says so."""
        self._calls = calls
        self._tally = tally
        self._written = written
        self._catalogue = catalogue
        self._captures = captures
        self._recent: dict[str, list[str]] = {}

    @contextmanager
    def around(
        self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any], routing: Routing, as_of: float
    ) -> Iterator[Callable[[Any], None]]:
        """Reads of what a write is about come from Mem0 until it is known to be in Spectron, drained up to `as_of`.

        Call what is given with Mem0's answer.
        """
        self._tally.began(routing.epoch)
        try:
            if routing.phase == "mem0":
                yield lambda answer: None
            else:
                with self._noted(method, args, kwargs, routing, as_of) as answered:
                    yield answered
        finally:
            self._tally.ended(routing.epoch)

    @contextmanager
    def _noted(
        self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any], routing: Routing, as_of: float
    ) -> Iterator[Callable[[Any], None]]:
        given = self._calls.named(method, args, kwargs)
        memory_id = str(given.get("memory_id")) if method in BY_MEMORY_ID else None
        about = list(owners_of(given).values()) if memory_id is None else self._owners(memory_id)
        captures = self._captures(routing)
        call = captures.begin(method, given, about, memory_id) if captures is not None else None
        later_s = 0.0
        # Before the call too: a process that dies in the middle may have written, and nothing says so afterwards.
        self._written.note(about, max(time.time(), as_of))

        def answered(answer: Any) -> None:
            nonlocal later_s
            rows = rows_of(answer)
            later_s = LATE_S if is_pending(rows) else 0.0
            if method == "add" and about:
                self._learn(rows, about)
            if call is not None:
                call.returned(answer)

        try:
            yield answered
        except BaseException as error:
            later_s = LATE_S if _may_come_late(error) else 0.0
            raise
        finally:
            captured = call.end(later_s) if call is not None else captures is None
            # A clock that was put back must not let this write look older than what the routing tells about.
            self._written.note(about, max(time.time(), as_of) + later_s, captured=captured)

    def _owners(self, memory_id: str) -> list[str]:
        """Who can find a memory; nobody by name where that cannot be told, and then it could be anybody."""
        recent = self._recent.get(memory_id)
        if recent is not None:
            return recent
        try:
            known = self._catalogue.memory(memory_id)
        except NoCatalogue:
            return []
        return list(known[0].entity_ids.values()) if known is not None else []

    def _learn(self, rows: Sequence[dict[str, Any]], about: list[str]) -> None:
        if len(self._recent) >= RECENT:
            self._recent = {}
        for row in rows:
            if row.get("event") == "ADD" and row.get("id"):
                self._recent[str(row["id"])] = about


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
