"""The limiter finds its own pace from what the server says."""

from __future__ import annotations

import asyncio

from spectron_migrate.delivery.limiter import Limiter


class Clock:
    """Time that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def limiter(clock: Clock, *, max_in_flight: int = 64, max_rps: float | None = None) -> Limiter:
    return Limiter(max_in_flight=max_in_flight, max_rps=max_rps, clock=clock, sleep=clock.sleep)


def test_it_starts_small_and_grows_to_its_limit_while_all_goes_well() -> None:
    found = limiter(Clock(), max_in_flight=16)
    seen = [found.limit]
    for _ in range(100):
        found.went_well()
        seen.append(found.limit)
    assert (4.0, 16.0) == (seen[0], seen[-1])


def test_it_backs_off_once_a_burst_and_says_why() -> None:
    clock = Clock()
    found = limiter(clock)
    for _ in range(60):
        found.went_well()
    for _ in range(20):
        found.slow_down("503 busy", 1.0)
    assert (64 * 0.7, "503 busy", 20) == (found.limit, found.why, found.slowed)


def test_it_waits_as_long_as_the_server_asked() -> None:
    clock = Clock()
    found = limiter(clock)

    async def use() -> float:
        found.slow_down("429", 7.5)
        async with found.slot():
            return clock.now

    assert 7.5 == asyncio.run(use())


def test_a_set_rate_is_kept() -> None:
    clock = Clock()
    found = limiter(clock, max_rps=10.0)

    async def use() -> float:
        for _ in range(21):
            async with found.slot():
                pass
        return clock.now

    assert 2.0 == round(asyncio.run(use()), 6)


def test_never_more_than_the_limit_are_in_flight() -> None:
    clock = Clock()
    found = limiter(clock, max_in_flight=3)
    highest = 0

    async def one() -> None:
        nonlocal highest
        async with found.slot():
            highest = max(highest, found.in_flight)
            await asyncio.sleep(0)
        found.went_well()

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(many())
    assert (3, 0) == (highest, found.in_flight)


def test_a_waiter_that_is_cancelled_takes_no_slot_with_it() -> None:
    found = limiter(Clock(), max_in_flight=1)

    async def play() -> int:
        async with found.slot():
            waiting = asyncio.create_task(found.slot().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.sleep(0)
        async with found.slot():
            return found.in_flight

    assert 1 == asyncio.run(asyncio.wait_for(play(), 5))
