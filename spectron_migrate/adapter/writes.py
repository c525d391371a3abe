"""Notes each call that changes Mem0: whose reads have to wait for it, and what results it had."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from spectron_migrate.adapter.call_results import ResultsOf
from spectron_migrate.adapter.catalogue import Catalogue, NoCatalogue
from spectron_migrate.adapter.mem0_calls import Mem0Calls, owners_of
from spectron_migrate.adapter.mem0_methods import BY_MEMORY_ID
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.errors import NotLegal
from spectron_migrate.state.call_log import CallSubject, encode_results
from spectron_migrate.state.routing import Routing

LATE_S = 60.0
"""If Mem0 has only accepted a call, or the network cut it off, its effect may become visible this much later."""
RECENT = 10_000
"""How many memories added by this process are remembered with their owners, until the catalogue has them."""
_log = logging.getLogger("spectron_migrate.adapter")
_ON_ITS_WAY = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "asyncio", "mem0.exceptions")


class WriteTracker:
    """One per adapter."""

    def __init__(
        self,
        calls: Mem0Calls,
        process_calls: ProcessCalls,
        catalogue: Catalogue,
        *,
        routing: Callable[[], Routing],
        moment: Callable[[str | None], float],
        results_of: ResultsOf,
    ) -> None:
        """`moment`: seconds since 1970 of an `as_of`; `results_of`: what a call left in Mem0."""
        self.calls = calls
        self.process_calls = process_calls
        self.routing = routing
        self.moment = moment
        self.results_of = results_of
        self._catalogue = catalogue
        self._recent: dict[str, list[str]] = {}

    def around(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _TrackedWrite:
        """A context around one call: its owners are read from Mem0 until Spectron has what it wrote.

        It yields a function, to be called with Mem0's answer.
        """
        return _TrackedWrite(self, method, args, kwargs)

    def owners(self, memory_id: str) -> list[str]:
        """The owners of a memory; empty if they are not known, which means anybody."""
        recent = self._recent.get(memory_id)
        if recent is not None:
            return recent
        try:
            known = self._catalogue.memory(memory_id)
        except NoCatalogue:
            return []
        return list(known[0].entity_ids.values()) if known is not None else []

    def learn(self, rows: Sequence[dict[str, Any]], owners: Sequence[str]) -> None:
        """Remember the owners of memories that were added just now."""
        if len(self._recent) >= RECENT:
            self._recent = {}
        for row in rows:
            if row.get("event") == "ADD" and row.get("id"):
                self._recent[str(row["id"])] = list(owners)


class _TrackedWrite:
    """One call. A class, because a `contextmanager` would cost the application more time than the notes themselves."""

    def __init__(self, tracker: WriteTracker, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._tracker = tracker
        self._method = method
        self._args = args
        self._kwargs = kwargs
        self._results: str | None = None
        self._later_s = 0.0

    def __enter__(self) -> Callable[[Any], None]:
        calls = self._tracker.process_calls
        self._number, self._routing = calls.start(self._tracker.routing)
        if self._routing.phase == "complete":
            calls.finish(self._number)
            raise NotLegal("nothing was written: the cutover was completed at this moment", hint="make the call again")
        if self._routing.phase == "mem0":
            return _unnoted
        try:
            self._begin()
        except BaseException:
            calls.finish(self._number)
            raise
        return self._answered

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if self._routing.phase != "mem0":
                self._end(error)
        finally:
            self._tracker.process_calls.finish(self._number)

    def _begin(self) -> None:
        tracker = self._tracker
        if self._method in BY_MEMORY_ID:
            memory_id = str(self._named().get("memory_id"))
            owners: Collection[str] = tracker.owners(memory_id)
        else:
            # Finding ids that are not keywords takes longer.
            by_name = len(self._args) < 2 and "options" not in self._kwargs
            memory_id, owners = None, owners_of(self._kwargs if by_name else self._named()).values()
        self._subject = CallSubject(tuple(owners), memory_id)
        self._captures = is_captured(self._routing)
        self._as_of = tracker.moment(self._routing.as_of)
        self._call = tracker.process_calls.note_begin(
            self._number, self._routing.epoch, self._now(), self._subject, capture=self._captures
        )

    def _answered(self, answer: Any) -> None:
        rows = rows_of(answer)
        self._later_s = LATE_S if is_pending(rows) else 0.0
        if self._method == "add" and self._subject.owners:
            self._tracker.learn(rows, self._subject.owners)
        if not self._captures:
            return
        try:
            results = self._tracker.results_of(self._method, self._named(), answer)
            self._results = encode_results(results) if results is not None else None
        except Exception as error:  # metadata that is not JSON: Mem0 has stored it, so the call must not fail
            _log.warning("what Mem0 stored cannot be captured; reconciling finds it: %s", error)

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self._results = None
            self._later_s = LATE_S if _may_come_late(error) else 0.0
        at = self._now() + self._later_s
        self._tracker.process_calls.note_end(self._call, at, self._results, self._subject, capture=self._captures)

    def _named(self) -> dict[str, Any]:
        return self._tracker.calls.named(self._method, self._args, self._kwargs)

    def _now(self) -> float:
        # Never earlier than `as_of`, even if the clock was set back. Otherwise the call would count as caught up.
        return max(time.time(), self._as_of)


def is_captured(routing: Routing) -> bool:
    """Whether the results of calls are to be captured for Spectron."""
    return routing.catch_up == "outbox" and routing.phase not in ("mem0", "complete")


def _unnoted(_: Any) -> None:
    """No cutover is under way: nothing is noted."""


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """The rows of an answer of Mem0, in any of its forms."""
    rows = answer.get("results", answer) if isinstance(answer, dict) else answer
    rows = [rows] if isinstance(rows, dict) else rows
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def is_pending(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether Mem0 has only accepted the call: the hosted one extracts memories later."""
    return any(row.get("status") == "PENDING" or "event_id" in row for row in rows)


def _may_come_late(error: BaseException) -> bool:
    """Whether Mem0 may still be at work after the error: a network error, a time-out, a cancelled call."""
    return type(error).__module__.startswith(_ON_ITS_WAY)
