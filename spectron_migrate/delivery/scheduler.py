"""Lanes side by side, limited by the requests in flight; memory use does not grow with their number."""

from __future__ import annotations

import asyncio

from spectron_migrate.delivery.key_question import remember_held_key
from spectron_migrate.delivery.lane import deliver_lane
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import sending, sessions
from spectron_migrate.ledger.read.known import LARGE

PAGE = 64
"""Lanes that one query of the ledger returns."""
LANES_PER_REQUEST = 2
"""Lanes at work for each request that may be in flight: while one lane waits for the ledger, another sends."""


async def deliver_lanes(run: Run) -> None:
    """Send everything that the run's plan still has, until all of it is decided or deferred, or the run stops.

    Raises MigrateError where the ledger cannot be written.
    """
    workers = LANES_PER_REQUEST * run.limiter.max_in_flight
    run.spare_streams = workers
    await run.writer.durable(sessions.orphan_openings)
    await remember_held_key(run)
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=PAGE)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_queue_lanes(run, queue, workers))
            for _ in range(workers):
                group.create_task(_work(run, queue))
    except ExceptionGroup as failures:
        expected = _first_expected(failures)
        if expected is None:
            raise
        raise expected from failures


def _first_expected(failures: ExceptionGroup[Exception]) -> MigrateError | None:
    """The first MigrateError among the failures of all tasks; None where all of them are bugs."""
    for each in failures.exceptions:
        found = _first_expected(each) if isinstance(each, ExceptionGroup) else each
        if isinstance(found, MigrateError):
            return found
    return None


async def _queue_lanes(run: Run, queue: asyncio.Queue[str | None], workers: int) -> None:
    large = await run.writer.grouped(sending.large_lanes, run.plan, least=LARGE, most=workers)
    for lane in large:
        await queue.put(lane)
    queued = set(large)
    after: str | None = None
    while not run.should_stop():
        found = await run.writer.grouped(sending.lanes_to_do, run.plan, after=after, limit=PAGE)
        for lane in found:
            if lane not in queued:
                await queue.put(lane)
        if len(found) < PAGE:
            break
        after = found[-1]
    for _ in range(workers):
        await queue.put(None)


async def _work(run: Run, queue: asyncio.Queue[str | None]) -> None:
    while (lane := await queue.get()) is not None:
        # Also after a stop the queue is emptied, or `_queue_lanes` would wait on a full queue for ever.
        if not run.should_stop() and not run.defer_if_throttled(lane):
            await deliver_lane(run, lane)
