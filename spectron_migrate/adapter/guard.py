"""The guard: a process whose reads from Spectron fail or take too long goes back to Mem0 by itself.

It goes back as soon as its window has too many failures, or too high a p95. From then on no read waits for Spectron.
After a pause, some searches are also sent to Spectron in the background. Several good answers in a row move the reads
back to Spectron. A bad one starts a pause that is twice as long, so that the guard does not flap.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from spectron_migrate.records import counted
from spectron_migrate.settings.types import GuardSettings
from spectron_migrate.state.process_status import stamp

LEAST_FAILURES = 3
"""Fewer failures than this in a window do not count."""
LEAST_ANSWERS = 20
"""With fewer answers than this in a window, no p95 is computed."""
PROBES = 5
"""How many good answers in a row move the reads back to Spectron."""
WELL_WITHIN = 0.8
"""The share of the p95 budget that a probe may take, so that reads do not move back right at the limit."""
LONGEST_PAUSE = 10
"""The longest pause, in windows."""

_log = logging.getLogger("spectron_migrate.adapter")

State = Literal["closed", "open", "probing"]


@dataclass(frozen=True, slots=True)
class _Event:
    at: float
    seconds: float
    failed: bool


class Guard:
    """`closed`: reads may go to Spectron. `open`: none may. `probing`: none may, but the background asks Spectron."""

    def __init__(
        self,
        budget: GuardSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` in seconds, monotonic; `now` with its zone."""
        self.since: str | None = None
        """When it last went back to Mem0, RFC 3339; None while reads go to Spectron."""
        self._now = now
        self.reason = ""
        self.trips = 0
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._events: deque[_Event] = deque()
        self._is_open = False
        self._until = 0.0
        self._pause = 1
        self._good = 0
        self._probe_runs = False

    @property
    def state(self) -> State:
        """The state now."""
        if not self._is_open:
            return "closed"
        return "probing" if self._clock() >= self._until else "open"

    def note(self, seconds: float, *, failed: bool) -> None:
        """Note a read that Spectron answered, or failed to answer."""
        with self._lock:
            self._events.append(_Event(self._clock(), seconds, failed))
            if not self._is_open:
                self._judge()

    def may_probe(self) -> bool:
        """Whether this search may ask Spectron in the background; one at a time."""
        if self.state != "probing":
            return False
        with self._lock:
            if self._probe_runs:
                return False
            self._probe_runs = True
            return True

    def probed(self, seconds: float, *, failed: bool) -> None:
        """Note the outcome of a probe."""
        with self._lock:
            self._probe_runs = False
            if failed or seconds > self._budget.p95_s * WELL_WITHIN:
                self._pause = min(LONGEST_PAUSE, self._pause * 2)
                self._rest()
                return
            self._good += 1
            if self._good >= PROBES:
                self._is_open, self._pause, self.since, self.reason = False, 1, None, ""
                self._events.clear()

    def forget_after_fork(self) -> None:
        """In a child process: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def _judge(self) -> None:
        budget, oldest = self._budget, self._clock() - self._budget.window_s
        while self._events and self._events[0].at < oldest:
            self._events.popleft()
        failures = sum(event.failed for event in self._events)
        share = failures / len(self._events)
        if failures >= LEAST_FAILURES and share > budget.error_rate:
            self._trip(f"{share:.1%} of {counted(len(self._events), 'read')} failed")
        elif len(self._events) >= LEAST_ANSWERS:
            times = sorted(event.seconds for event in self._events)
            p95 = times[math.ceil(0.95 * len(times)) - 1]
            if p95 > budget.p95_s:
                self._trip(f"p95 is {p95 * 1000:.0f} ms over {counted(len(times), 'read')}")

    def _trip(self, reason: str) -> None:
        self._is_open = True
        self.reason = reason
        self.trips += 1
        self.since = stamp(self._now())
        _log.warning("reads go back to Mem0: %s", reason)
        self._rest()

    def _rest(self) -> None:
        self._good = 0
        self._until = self._clock() + self._budget.window_s * self._pause
