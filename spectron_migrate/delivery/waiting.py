"""Whom a run leaves waiting instead of waiting for them, and what the next run needs to go on with them.

A replay waits for as long as it takes. A round of catching up is waited for by everybody who is read from Spectron, so
it ends when all that is left only waits: for an answer, for time to tell what became of a write, for a server that
wants to be asked later. Such a lane stays as it is, and holds itself alone: a request that is under way goes on, and
the patience used so far counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from spectron_migrate.delivery.run import Brake

T = TypeVar("T")

READING_S = 15.0


class Unanswered(Exception):
    """A request is under way, and the run does not wait for it any longer: the next one may have its answer."""


@dataclass
class Effort:
    """What was done so far to decide one write."""

    began: float
    """By the clock of the runs, in seconds."""
    written_before: int
    """How much the runs had written when the one began in which the doubt arose."""
    tries: int = 0
    """Answers that leave in doubt."""
    waits: int = 0
    """Answers that it is still at work."""
    part: tuple[str, ...] = ()
    """Of a batch, the turns that were there when it was looked at last."""
    part_since: float = 0.0

    @property
    def pause_s(self) -> float:
        """How long to wait before it is sent again."""
        return min(10.0, 0.3 * 2.0 ** min(self.tries + self.waits, 8))


class Waiting:
    """What the runs of one process remember, by what is waited for: an idempotency key, a session, a scope."""

    def __init__(self, hold_s: float | None = None, *, most_unanswered: int = 0) -> None:
        """`hold_s`: seconds without any decision after which nobody is waited for; None waits as long as it takes.

        `most_unanswered`: requests that may go on behind a run; they take connections from those after it.
        """
        self.hold_s = hold_s
        self.reading_s = None if hold_s is None else READING_S
        """How long one listing may take, all its repetitions together."""
        self.left: dict[str, str] = {}
        """What the last run left waiting, and for what."""
        self.written = 0
        """Facts that runs before this one wrote."""
        self._most_unanswered = most_unanswered
        self._until: dict[str, tuple[float, str]] = {}
        self._efforts: dict[str, Effort] = {}
        self._silent_since: dict[str, float] = {}
        self._unanswered: dict[str, tuple[bytes, asyncio.Future[Any]]] = {}

    def begin(self) -> None:
        """Another run: nothing is left yet."""
        self.left.clear()

    def leave(self, key: str, why: str, *, until: float) -> None:
        """Let it wait, and do not touch it before that moment."""
        self._until[key] = (until, why)
        self.left[key] = why

    def is_due(self, key: str, now: float) -> bool:
        """Whether it may go on; else it is left once more."""
        until, why = self._until.get(key, (now, ""))
        if now < until:
            self.left[key] = why
            return False
        self._until.pop(key, None)
        if key in self._unanswered and not self._unanswered[key][1].done():
            self.left[key] = "no answer yet"
            return False
        return True

    def effort(self, key: str, now: float) -> Effort:
        """What was done so far, in this run and those before it."""
        return self._efforts.setdefault(key, Effort(now, self.written))

    def was_sent_again(self, key: str) -> bool:
        """Whether the same bytes were sent more than once, and it is still in doubt."""
        effort = self._efforts.get(key)
        return effort is not None and effort.tries + effort.waits > 0

    def silent_s(self, key: str, now: float) -> float:
        """For how long it has not been sent, since this was asked first."""
        return now - self._silent_since.setdefault(key, now)

    def sent(self, key: str) -> None:
        """It is sent, now."""
        self._silent_since.pop(key, None)

    def forget(self, key: str) -> None:
        """It is decided, or all that can be done for it was done: what comes next begins anew."""
        for kept in (self._until, self._efforts, self._silent_since, self._unanswered):
            kept.pop(key, None)

    async def answer(self, key: str, content: bytes, ask: Callable[[], Awaitable[T]], brake: Brake) -> T:
        """What `ask` gives, or the request with these bytes that an earlier run left under way.

        Raises what that raises, and Unanswered where the run waits no longer.
        """
        if self.hold_s is None:
            return await ask()
        began = brake.now()
        request: asyncio.Future[T] = self._under_way(key, content) or asyncio.ensure_future(ask())
        try:
            while not request.done():
                rest_s = brake.rest_s(since=began)
                if rest_s > 0:
                    await asyncio.wait({request}, timeout=rest_s)
                elif brake.stop is None and self._goes_on_behind(key, content, request):
                    raise Unanswered(key)
                else:
                    await asyncio.wait({request})
        except asyncio.CancelledError:
            request.cancel()
            raise
        return await request

    def _under_way(self, key: str, content: bytes) -> asyncio.Future[Any] | None:
        sent, request = self._unanswered.pop(key, (b"", None))
        return None if request is None or request.cancelled() or sent != content else request

    def _goes_on_behind(self, key: str, content: bytes, request: asyncio.Future[Any]) -> bool:
        running = sum(not other.done() for _, other in self._unanswered.values())
        if key in self._unanswered or running >= self._most_unanswered:
            return False
        self._unanswered[key] = (content, request)
        self.left[key] = "no answer yet"
        request.add_done_callback(_seen)
        return True


def _seen(request: asyncio.Future[Any]) -> None:
    """Nobody may ask how it ended, and that is no error."""
    if not request.cancelled():
        request.exception()
