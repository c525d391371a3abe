"""How many requests are in flight: found by itself, up to a limit, and paced where a rate is set.

Slow start, then additive increase and multiplicative decrease on 429 and 503, as TCP does it: the
server's own signals set the pace, so nobody has to guess it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from spectron_migrate.spectron.api import Sleep

START = 4
BACK_OFF = 0.7


class Limiter:
    """Slots for requests. `why` says what slows it down now, empty where nothing does."""

    def __init__(
        self, *, max_in_flight: int, max_rps: float | None = None, clock: Callable[[], float], sleep: Sleep
    ) -> None:
        """`clock` in seconds, monotonic."""
        self.limit = float(min(START, max_in_flight))
        self.in_flight = 0
        self.slowed = 0
        self.why = ""
        self._max = max_in_flight
        self._gap_s = 1.0 / max_rps if max_rps else 0.0
        self._next_at = 0.0
        self._paused_until = 0.0
        self._slow_start = True
        self._slowed_at = float("-inf")
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and for the pace, then hold the slot."""
        while self.in_flight >= int(self.limit):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.in_flight += 1
        try:
            await self._pace()
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def went_well(self) -> None:
        """An answer came; there may be room for more."""
        step = 1.0 if self._slow_start else 1.0 / self.limit
        self.limit = min(float(self._max), self.limit + step)
        if self._clock() >= self._paused_until:
            self.why = ""
        self._wake()

    def slow_down(self, reason: str, retry_after_s: float | None) -> None:
        """The server asked for less: once a burst, not once an answer of it."""
        self.slowed += 1
        self.why = reason
        now = self._clock()
        self._slow_start = False
        if now >= self._paused_until and now - self._slowed_at > 0.1:
            self.limit = max(1.0, self.limit * BACK_OFF)
            self._slowed_at = now
        self._paused_until = max(self._paused_until, now + (retry_after_s or 0.0))

    async def _pace(self) -> None:
        while True:
            now = self._clock()
            ready = max(self._paused_until, self._next_at)
            if now >= ready:
                self._next_at = max(now, self._next_at) + self._gap_s
                return
            await self._sleep(ready - now)

    def _wake(self) -> None:
        free = int(self.limit) - self.in_flight
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
