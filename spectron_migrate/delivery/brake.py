"""Stops a run: requests in flight finish, waits end, and nothing new begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spectron_migrate.spectron.api import Sleep
from spectron_migrate.spectron.wire import NotBegun

StopKind = Literal["signal", "limit", "key", "unreachable", "failure"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ends before its work is done."""

    kind: StopKind
    reason: str


class Stopping(NotBegun):
    """The run is stopping, so this request was not sent."""


class TooLong(Stopping):
    """The wait would exceed the idle limit of the run, so it was not begun."""


class Brake:
    """Stops one run, and ends its waits as soon as it stops."""

    def __init__(
        self,
        sleep: Sleep,
        *,
        clock: Callable[[], float],
        max_seconds: float | None = None,
        idle_limit_s: float | None = None,
    ) -> None:
        """`clock` in seconds, monotonic; `max_seconds` counts from now.

        `idle_limit_s`: after this many seconds without any decision the run no longer waits for anything.
        """
        self.stop: Stop | None = None
        self.now = clock
        self._sleep = sleep
        self._idle_limit_s = float("inf") if idle_limit_s is None else idle_limit_s
        self._last_decision = clock()
        self._deadline = float("inf") if max_seconds is None else clock() + max_seconds
        self._pulled = asyncio.Event()

    def note_decision(self) -> None:
        """Note that something was decided. The idle limit counts from now."""
        self._last_decision = self.now()

    def idle_left_s(self, *, began: float = float("-inf")) -> float:
        """How many seconds the run may still wait for something that it has been waiting for since `began`."""
        return max(self._last_decision, began) + self._idle_limit_s - self.now()

    def pull(self, kind: StopKind, reason: str) -> None:
        """Stop the run; the first reason is kept."""
        if self.stop is None:
            self.stop = Stop(kind, reason)
            self._pulled.set()

    def check(self) -> Stop | None:
        """Why nothing new may begin; None while the run goes on. Stops the run at its deadline."""
        if self.now() >= self._deadline:
            self.pull("limit", "the time limit was reached")
        return self.stop

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline; raises Stopping as soon as the run stops, TooLong without sleeping."""
        if self.check() is None:
            if seconds > self.idle_left_s():
                raise TooLong("it would take longer than others can wait")
            seconds = min(seconds, self._deadline - self.now())
            waits = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._pulled.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        stop = self.check()
        if stop is not None:
            raise Stopping(stop.reason)
