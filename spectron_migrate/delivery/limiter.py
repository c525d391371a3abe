"""Limits the requests in flight. Finds the best number by itself, up to a maximum, and obeys a rate if one is set.

It begins with a slow start while latency stays low, then takes small steps up as long as all goes well, and steps down
when the server is overloaded. Overload shows in two ways. Each 429 or 503 takes one slot away. And the mean latency of
a round (about as many responses as there are slots) is compared with the best one. If it is much longer, requests queue
at the server, and by Little's law the server really works on slots x best / now of them. A smaller limit must improve
latency. If it does not, the server itself has become slower, and the limit goes up again. Otherwise noise and long
texts would throttle the run for good.

Writes go before requests that prepare writes (scopes, sessions). Otherwise many lanes that are being prepared would
take every slot, and the first memory would wait. If writes leave slots free, preparing requests get all of these but
one, which stays free for the first memory. Scopes get at most half of the slots, so that a lane whose scope is
registered need not wait for a slot again.

The lane with the most left goes before all others, whatever its request is for, because a run lasts as long as its
longest lane.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from itertools import count
from types import TracebackType

from spectron_migrate.records import counted
from spectron_migrate.spectron.api import Sleep

START = 4
FIRST_ROUNDS = 16
LEAST_ROUND = 48
"""The least number of responses in one round: in slow start, and later."""
LEARNS = 0.3
"""How far one better round moves the best latency. A single lucky round must not set it."""
DOUBTFUL = 8
"""After this many rounds between `ROOM` and `QUEUEING`, a smaller limit is tried."""
ROOM = 1.25
"""Below this multiple of the best latency, more requests may fit."""
QUEUEING = 1.6
"""Above this multiple of the best latency, requests queue at the server."""
LONGER = 1.1
"""Above this multiple of the best latency, `why` reports that latency limits the run."""
LONGEST_WAIT = 4
"""After at most this many rounds at one limit, one more slot is tried."""
RECENT_S = 30.0
"""How long `why` reports a response that slowed the run down."""


FIRST_OF_ALL = float("inf")
"""The rank of a write that decides what is in doubt."""


class Kind(IntEnum):
    """What a request is for; of those with the same rank, the first kind gets the next free slot."""

    WRITE = 0
    SESSION = 1
    SCOPE = 2


class Slot:
    """One request in flight, from its first byte to its response: `async with limiter.slot() as slot`."""

    def __init__(self, limiter: Limiter, kind: Kind, rank: float) -> None:
        self._limiter = limiter
        self.kind = kind
        self.rank = rank
        self.began = 0.0

    async def __aenter__(self) -> Slot:
        await self._limiter._enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter._leave(self.kind)


class Limiter:
    """Slots for requests; entering one waits for a free slot and for the pace."""

    def __init__(
        self,
        *,
        max_in_flight: int,
        max_rps: float | None = None,
        known: float | None = None,
        clock: Callable[[], float],
        sleep: Sleep,
        turn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`clock` in seconds, monotonic; `max_rps`: requests per second; `known`: the limit at which a run ended.

        `turn`: waits for the turn of the next request, if several processes share a rate.
        """
        self.limit = min(float(max_in_flight), max(START, known or START))
        self.in_flight = 0
        """Requests without a response yet."""
        self.throttled: Counter[str] = Counter()
        """How often the server asked for fewer requests, by status."""
        self.queued = 0
        """How often the limit was lowered because responses took too long."""
        self.max_in_flight = max_in_flight
        self._taken = dict.fromkeys(Kind, 0)
        self._waiting: dict[Kind, list[tuple[float, int, asyncio.Future[None]]]] = {kind: [] for kind in Kind}
        """Heaps: the greatest rank first, then who came first."""
        self._numbers = count()
        self._clock = clock
        self._sleep = sleep
        self._gap_s = 1.0 / max_rps if max_rps else 0.0
        self._turn = turn
        self._next_at = 0.0
        self._paused_until = float("-inf")
        self._in_a_row = 0
        self._recent: deque[tuple[float, str]] = deque()
        self._slow_start = True
        self._writes = self.limit
        """During slow start, the most writes in flight."""
        self._step, self._stepped, self._calm, self._wait, self._held = 1.0, False, 0, 1, 0
        self._best_s = self._now_s = float("inf")
        self._prepared_best_s: dict[Kind, float] = {}
        self._before: tuple[float, float] | None = None
        self._answers, self._took_s, self._round = 0, 0.0, float(FIRST_ROUNDS)
        self._scarce = self._asked_for_less = False
        self._round_began = clock()

    def slot(self, kind: Kind = Kind.WRITE, *, rank: float = 0) -> Slot:
        """A slot to enter. Of those that wait, the one with the greatest `rank` is next."""
        return Slot(self, kind, rank)

    @property
    def paused_s(self) -> float:
        """How many seconds no slot will be given out, because the server throttled one request after another."""
        return max(0.0, self._paused_until - self._clock())

    @property
    def why(self) -> str:
        """What slows the run down now, for the progress line; empty if nothing does."""
        now = self._clock()
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()
        in_flight = f"{int(self.limit)} in flight"
        if now < self._paused_until:
            return f"paused for {self._paused_until - now:.0f} s, as the server asked"
        if self._recent:
            causes = ", ".join(f"{count} answers {status}" for status, count in _counted(self._recent))
            return f"slowed down: {causes} in the last {RECENT_S:.0f} s, {in_flight}"
        if self.queued and self._now_s > LONGER * self._best_s and self.limit < self.max_in_flight:
            return f"slowed down: answers take {self._now_s / self._best_s:.1f} times as long as at best, {in_flight}"
        return ""

    @property
    def summary(self) -> str | None:
        """What slowed the run down so far, for its summary; None if nothing did."""
        causes = [f"{count} answers {status}" for status, count in sorted(self.throttled.items())]
        if self.queued:
            causes.append(f"answers that took much longer than at best ({counted(self.queued, 'time')})")
        return f"slowed down by {' and '.join(causes)}; {int(self.limit)} in flight at the end" if causes else None

    # -- what the server answers --------------------------------------------------------------------------

    def note_success(self, slot: Slot) -> None:
        """Note a response that was not throttled. Call it inside the slot."""
        self._in_a_row = 0
        if slot.began < self._round_began:
            return  # it was sent under another limit
        took_s = self._clock() - slot.began
        if slot.kind is not Kind.WRITE:
            self._note_prepared(slot.kind, took_s)
            return
        self._answers += 1
        self._took_s += took_s
        self._scarce = self._scarce or self._is_scarce
        if self._slow_start and self._is_scarce and took_s < QUEUEING * self._best_s:
            self._writes += bool(self._waiting[Kind.WRITE])
            self._set(self.limit + 1.0)
        if self._answers >= self._round:
            self._end_round()

    def _note_prepared(self, kind: Kind, took_s: float) -> None:
        """Requests that prepare writes have another latency, and are compared only with each other."""
        best_s = self._prepared_best_s.get(kind, float("inf"))
        if self._slow_start and self._is_scarce and took_s < QUEUEING * best_s:
            self._set(self.limit + 1.0)
        self._prepared_best_s[kind] = min(best_s, took_s)

    @property
    def _is_scarce(self) -> bool:
        return any(self._waiting.values())

    def slow_down(self, status: str, retry_after_s: float | None) -> None:
        """Note that the server asked for fewer requests. Call it inside the slot."""
        now = self._clock()
        self.throttled[status] += 1
        self._recent.append((now, status))
        self._in_a_row += 1
        if not self._asked_for_less:
            self._wait = min(LONGEST_WAIT, 2 * self._wait)
        self._asked_for_less = True
        self._end_slow_start()
        self._stepped, self._step, self._calm = False, 1.0, 0
        self._set(min(self.limit, self.in_flight - 1.0))
        if self._in_a_row > max(self.limit, 2.0) and retry_after_s:
            # Every request is throttled now, so its `Retry-After` is taken to mean all of them.
            self._paused_until = max(self._paused_until, now + retry_after_s)
            self._set(float(START))

    # -- rounds -------------------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        self._round_began = self._clock()
        self._round = max(self._writes, FIRST_ROUNDS) if self._slow_start else max(2 * self.limit, LEAST_ROUND)
        self._answers = 0
        self._took_s = 0.0
        self._scarce = self._asked_for_less = False

    def _end_round(self) -> None:
        mean_s = self._now_s = max(1e-6, self._took_s / self._answers)
        self._adjust(mean_s, calm=not self._asked_for_less, scarce=self._scarce)
        self._begin_round()

    def _adjust(self, mean_s: float, *, calm: bool, scarce: bool) -> None:
        if self._before is not None:
            limit, then_s = self._before
            self._before = None
            if mean_s > then_s * (1 + self.limit / limit) / 2:
                self._best_s = mean_s  # fewer requests in flight did not help, so this is the server's latency now
                self._set(limit)
                return
        lower_s = self._best_s - mean_s
        self._best_s = mean_s if self._best_s == float("inf") else self._best_s - max(0.0, lower_s * LEARNS)
        slower = mean_s / self._best_s
        if self._slow_start:
            # The limit grew during this round, so this only shows that it grew too far. The next round shows how far.
            if slower >= ROOM:
                self._end_slow_start()
        elif slower < ROOM:
            self._held = 0
            if calm and scarce:
                self._grow()
        else:
            self._held += 1
            if slower > QUEUEING or self._held >= DOUBTFUL:
                self._shrink(slower, mean_s)

    def _end_slow_start(self) -> None:
        if self._slow_start:
            self._slow_start = False
            self._set(min(self.limit, self._writes))

    def _shrink(self, slower: float, mean_s: float) -> None:
        """Lower the limit to what the server really works on, by the best latency; the next round is the test."""
        if self.limit <= START:
            return  # so few requests harm no server, and a single one would leave it idle between requests
        self.queued += slower > QUEUEING
        self._before = (self.limit, mean_s)
        self._held, self._stepped, self._step = 0, False, 1.0
        self._set(max(START, self.limit * max(0.5, 1 / slower)))

    def _grow(self) -> None:
        """One more slot, then two, then more while all goes well; after each throttling it waits twice as long."""
        if self._stepped:
            self._wait, self._step = 1, min(self._step * 2, max(1.0, self.limit / 8))
        self._stepped = False
        self._calm += 1
        if self._calm >= self._wait:
            self._calm, self._stepped = 0, True
            self._set(self.limit + self._step)

    def _set(self, limit: float) -> None:
        self.limit = max(1.0, min(float(self.max_in_flight), limit))
        self._wake()

    # -- slots --------------------------------------------------------------------------------------------

    async def _enter(self, slot: Slot) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[slot.kind], (-slot.rank, next(self._numbers), turn))
        self._wake()
        try:
            await turn  # `_wake` has already taken the slot for it
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(slot.kind)
            raise
        try:
            await self._pace()
        except BaseException:
            self._free(slot.kind)
            raise
        self.in_flight += 1
        slot.began = self._clock()

    def _leave(self, kind: Kind) -> None:
        self.in_flight -= 1
        self._free(kind)

    def _free(self, kind: Kind) -> None:
        self._taken[kind] -= 1
        self._wake()

    def _free_slots(self, kind: Kind) -> int:
        """How many slots a request of this kind may take now."""
        slots, taken = int(self.limit), self._taken
        free = slots - sum(taken.values())
        if kind is Kind.WRITE:
            return min(free, int(self._writes) - taken[kind]) if self._slow_start else free
        free = min(free, max(1, slots - 1) - taken[Kind.SESSION] - taken[Kind.SCOPE])
        return min(free, max(1, slots // 2) - taken[kind]) if kind is Kind.SCOPE else free

    async def _pace(self) -> None:
        while True:
            now = self._clock()
            ready = max(self._paused_until, self._next_at)
            if now >= ready:
                self._next_at = max(now, self._next_at) + self._gap_s
                break
            await self._sleep(ready - now)
        if self._turn is not None:
            await self._turn()

    def _wake(self) -> None:
        """Give free slots to those that wait: by rank, then writes before what prepares writes, then who came first."""
        while True:
            able = [kind for kind in Kind if self._waiting[kind] and self._free_slots(kind) > 0]
            if not able:
                return
            kind = min(able, key=lambda each: (self._waiting[each][0][0], each))
            turn = heapq.heappop(self._waiting[kind])[2]
            if not turn.done():
                turn.set_result(None)
                self._taken[kind] += 1


def _counted(recent: deque[tuple[float, str]]) -> list[tuple[str, int]]:
    return sorted(Counter(status for _, status in recent).items())
