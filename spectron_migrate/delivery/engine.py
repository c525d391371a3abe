"""Lanes side by side: as many as may be in flight, each in its own order, memory flat however many there are."""

from __future__ import annotations

import asyncio

from spectron_migrate.delivery.lane import deliver_lane
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import sending, sessions

PAGE = 64
"""Lanes that are looked up at once."""
LARGE = 256
"""Facts from which on a lane begins before all others: it takes longest, one fact after the other."""
LANES_A_PLACE = 2
"""Lanes at work for each request that may be in flight: while one lane waits for the ledger, another sends."""


async def deliver_lanes(run: Run) -> None:
    """Send everything that the run's plan still has, until it is all decided, deferred or the run stops.

    Raises MigrateError where the ledger cannot be written.
    """
    workers = LANES_A_PLACE * run.limiter.max_in_flight
    run.spare_streams = workers
    await run.writer.durable(sessions.orphan_openings)
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=PAGE)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_find_lanes(run, queue, workers))
            for _ in range(workers):
                group.create_task(_work(run, queue))
    except ExceptionGroup as failures:
        told = _told(failures)
        if told is None:
            raise
        raise told from failures


def _told(failures: ExceptionGroup[Exception]) -> MigrateError | None:
    """Of what many tasks met the first that is no bug of ours; None where all of it is one."""
    for each in failures.exceptions:
        found = _told(each) if isinstance(each, ExceptionGroup) else each
        if isinstance(found, MigrateError):
            return found
    return None


async def _find_lanes(run: Run, queue: asyncio.Queue[str | None], workers: int) -> None:
    large = await run.writer.grouped(sending.large_lanes, run.plan, least=LARGE, most=workers)
    for lane in large:
        await queue.put(lane)
    begun = set(large)
    after: str | None = None
    while not run.should_stop():
        found = await run.writer.grouped(sending.lanes_to_do, run.plan, after=after, limit=PAGE)
        for lane in found:
            if lane not in begun:
                await queue.put(lane)
        if len(found) < PAGE:
            break
        after = found[-1]
    for _ in range(workers):
        await queue.put(None)


async def _work(run: Run, queue: asyncio.Queue[str | None]) -> None:
    while (lane := await queue.get()) is not None:
        if not run.should_stop() and not run.is_put_off(lane):  # the finder must not be left waiting on a full queue
            await deliver_lane(run, lane)
