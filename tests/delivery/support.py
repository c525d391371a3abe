"""Time that jumps to the next thing to happen, and servers whose capacity is known, to play against in no time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spectron_migrate.delivery.limiter import Limiter

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps: where nothing is ready, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 0.0

    def time(self) -> float:
        return self.moment

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.moment = max(self.moment, self._scheduled[0]._when)
        super()._run_once()


def play(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in jumping time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Seconds of the running loop's own time."""
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """`slots` places, each request takes `latency_s`; beyond them it rejects, lets wait, or slows down for all."""

    slots: int
    latency_s: float = 0.1
    rejects: bool = False
    drag: float = 0.0
    """Takes everybody in; what begins among n takes (n / slots) to this power times as long. 0: it lets wait."""
    noise: Callable[[], float] = lambda: 1.0
    at_work: int = 0
    answered: int = 0
    rejected: int = 0
    each_second: Counter[int] = field(default_factory=Counter)
    most_waiting: int = 0
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def request(self) -> bool:
        """False for a 429."""
        if self.rejects and self.at_work >= self.slots:
            self.rejected += 1
            await asyncio.sleep(0.001)
            return False
        if self.at_work >= self.slots and not self.drag:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self.most_waiting = max(self.most_waiting, len(self._waiting))
            await turn
        else:
            self.at_work += 1
        slower = max(1.0, self.at_work / self.slots) ** self.drag
        await asyncio.sleep(self.latency_s * slower * self.noise())
        self.at_work -= 1
        while self._waiting and self.at_work < self.slots:
            self._waiting.popleft().set_result(None)
            self.at_work += 1
        self.answered += 1
        self.each_second[int(now())] += 1
        return True

    def share_between(self, begin: int, end: int) -> float:
        """Requests answered in those seconds, as a share of what so many places can do."""
        return sum(self.each_second[second] for second in range(begin, end)) / (
            (end - begin) * self.slots / self.latency_s
        )


async def load(server: Server, limiter: Limiter, *, lanes: int, seconds: float) -> None:
    """Lanes that always have something to send, and wait as long as a 429 asks."""

    async def lane() -> None:
        while now() < seconds:
            async with limiter.slot() as slot:
                taken = await server.request()
                if taken:
                    limiter.note_success(slot)
                else:
                    limiter.slow_down("429", 1.0)
            if not taken:
                await asyncio.sleep(1.0)

    await asyncio.gather(*(lane() for _ in range(lanes)))


def limiter(max_in_flight: int = 64, **more: Any) -> Limiter:
    """A limiter in the running loop's time."""
    return Limiter(max_in_flight=max_in_flight, clock=now, sleep=asyncio.sleep, **more)


def lognormal(seed: int, sigma: float) -> Callable[[], float]:
    """Latencies that differ from request to request, with a mean of 1."""
    dice = random.Random(seed)
    return lambda: dice.lognormvariate(-sigma * sigma / 2, sigma)
