"""Lanes that a run skipped because the server has not answered yet, with what the next run needs to resume them.

A plain replay waits as long as it takes. A round of following must not, because all users who are read from Spectron
wait for it. So a round ends when everything that is left is waiting: for a response, until time shows what became of a
write, or because the server asked to be called later. Such a lane is deferred to the next round and holds up no other
lane. Its request stays in flight, and the time that it has already waited counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from spectron_migrate.backoff import backoff_s
from spectron_migrate.delivery.brake import Brake
from spectron_migrate.delivery.key_memory import KeyMemory
from spectron_migrate.delivery.side_by_side import retrieve_exception

T = TypeVar("T")

LISTING_LIMIT_S = 15.0
"""How long a round may take to list one session, retries included."""
NO_ANSWER = "no answer yet"


class Unanswered(Exception):
    """The request is still in flight, and the run no longer waits for it; the next run can take its response."""


@dataclass
class RecoveryProgress:
    """What was done so far to decide one write, in all runs of this process."""

    began: float
    """When recovery began, by the monotonic clock of the runs, in seconds."""
    written_before: int
    """How many facts all runs had written before the run in which this write became doubtful."""
    doubts: int = 0
    """Responses that left it in doubt."""
    in_flight: int = 0
    """Responses which say that the first request is still being processed."""
    passage_queries: int = 0
    """How many queries did not find the passage of a stored text."""
    partial_turns: tuple[str, ...] = ()
    """For a batch: the number of turns that the last listing showed."""
    partial_since: float = 0.0

    @property
    def pause_s(self) -> float:
        """How long to wait before the same bytes are sent again."""
        return backoff_s(self.doubts + self.in_flight, first_s=0.3, longest_s=10.0)


class DeferredWork:
    """What the runs of one process remember about waits, by idempotency key, session, scope or lane."""

    def __init__(self, idle_limit_s: float | None = None, *, max_in_flight: int = 0) -> None:
        """`idle_limit_s`: seconds without any decision after which a run defers what waits; None never defers.

        `max_in_flight`: requests that may stay in flight after a run ends; they occupy connections of the next one.
        """
        self.idle_limit_s = idle_limit_s
        self.listing_limit_s = None if idle_limit_s is None else LISTING_LIMIT_S
        self.reasons: dict[str, str] = {}
        """What the current run deferred, and why."""
        self.written_before = 0
        """Facts that earlier runs wrote."""
        self.keys = KeyMemory()
        self._max_in_flight = max_in_flight
        self._not_before: dict[str, tuple[float, str]] = {}
        self._progress: dict[str, RecoveryProgress] = {}
        self._unsent_since: dict[str, float] = {}
        self._unsent_before: dict[str, float] = {}
        """What `_unsent_since` was before the last send."""
        self._in_flight: dict[str, tuple[bytes, asyncio.Future[Any]]] = {}

    def begin_run(self) -> None:
        """Forget what the previous run deferred, but keep its waits and requests."""
        self.reasons.clear()

    def defer(self, key: str, why: str, *, until: float) -> None:
        """Leave `key` alone until this moment of the monotonic clock."""
        self._not_before[key] = (until, why)
        self.reasons[key] = why

    def is_due(self, key: str, now: float) -> bool:
        """Whether it may continue; if not, the current run defers it too."""
        until, why = self._not_before.get(key, (now, ""))
        if now < until:
            self.reasons[key] = why
            return False
        self._not_before.pop(key, None)
        if key in self._in_flight and not self._in_flight[key][1].done():
            self.reasons[key] = NO_ANSWER
            return False
        return True

    def progress(self, key: str, now: float) -> RecoveryProgress:
        """What was done so far to decide the write with this key; begins a new record if there is none."""
        return self._progress.setdefault(key, RecoveryProgress(now, self.written_before))

    def was_resent(self, key: str) -> bool:
        """Whether the same bytes were sent more than once without a decision."""
        progress = self._progress.get(key)
        return progress is not None and progress.doubts + progress.in_flight > 0

    def unsent_s(self, key: str, now: float) -> float:
        """Seconds since this was first called for `key` after its last send."""
        return now - self._unsent_since.setdefault(key, now)

    def note_send(self, key: str) -> None:
        """Note that the key is being sent now."""
        since = self._unsent_since.pop(key, None)
        self._unsent_before.pop(key, None)
        if since is not None:
            self._unsent_before[key] = since
        self.keys.note_send(key)

    def note_refused(self, key: str) -> None:
        """Note that the last send was answered.

        Only earlier ones may still be on their way, and their time keeps counting. Otherwise every round that defers
        the key would start to wait from the beginning.
        """
        since = self._unsent_before.pop(key, None)
        if since is not None:
            self._unsent_since.setdefault(key, since)

    def forget(self, key: str) -> None:
        """Forget a write that is decided, or that recovery gave up on. A later one starts from the beginning."""
        for kept in (self._not_before, self._progress, self._unsent_since, self._unsent_before, self._in_flight):
            kept.pop(key, None)
        self.keys.forget(key)

    async def await_response(self, key: str, content: bytes, send: Callable[[], Awaitable[T]], brake: Brake) -> T:
        """The result of `send`, or that of a request with the same bytes which an earlier run left in flight.

        Raises what the request raises, and Unanswered if the run no longer waits for it.
        """
        if self.idle_limit_s is None:
            return await send()
        began = brake.now()
        request: asyncio.Future[T] = self._take_in_flight(key, content) or asyncio.ensure_future(send())
        try:
            while not request.done():
                left_s = brake.idle_left_s(began=began)
                if left_s > 0:
                    await asyncio.wait({request}, timeout=left_s)
                elif brake.stop is None and self._keep_in_flight(key, content, request):
                    raise Unanswered(key)
                else:
                    await asyncio.wait({request})
        except asyncio.CancelledError:
            request.cancel()
            raise
        return await request

    def left_in_flight(self, key: str, content: bytes) -> bool:
        """Whether an earlier run left a request with these bytes in flight, whose response can be taken."""
        sent, request = self._in_flight.get(key, (b"", None))
        return sent == content and request is not None and not request.cancelled()

    def _take_in_flight(self, key: str, content: bytes) -> asyncio.Future[Any] | None:
        sent, request = self._in_flight.pop(key, (b"", None))
        return None if request is None or request.cancelled() or sent != content else request

    def _keep_in_flight(self, key: str, content: bytes, request: asyncio.Future[Any]) -> bool:
        in_flight = sum(not other.done() for _, other in self._in_flight.values())
        if key in self._in_flight or in_flight >= self._max_in_flight:
            return False
        self._in_flight[key] = (content, request)
        self.reasons[key] = NO_ANSWER
        request.add_done_callback(retrieve_exception)
        return True
