"""Lanes side by side: as many as may be in flight, each in its own order, memory flat however many there are."""

from __future__ import annotations

import asyncio

from spectron_migrate.delivery.lane import LaneStream
from spectron_migrate.delivery.run import Run
from spectron_migrate.ledger import sending

PAGE = 256
"""Lanes that are looked up at once."""


async def deliver(run: Run, *, lanes_at_once: int) -> None:
    """Send everything the run's plan still has; `run.stop` and the ledger tell afterwards what was left."""
    await run.writer.durable(sending.orphan_openings)
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=PAGE)
    async with asyncio.TaskGroup() as group:
        group.create_task(_find_lanes(run, queue, lanes_at_once))
        for _ in range(lanes_at_once):
            group.create_task(_work(run, queue))


async def _find_lanes(run: Run, queue: asyncio.Queue[str | None], workers: int) -> None:
    after: str | None = None
    while not run.should_stop():
        found = await run.writer.grouped(sending.lanes_to_do, run.plan, after=after, limit=PAGE)
        for lane in found:
            await queue.put(lane)
        if len(found) < PAGE:
            break
        after = found[-1]
    for _ in range(workers):
        await queue.put(None)


async def _work(run: Run, queue: asyncio.Queue[str | None]) -> None:
    while (lane := await queue.get()) is not None:
        if run.should_stop():
            continue  # the finder must not be left waiting on a full queue
        async with asyncio.TaskGroup() as streams:
            streams.create_task(LaneStream(run, lane, "full").deliver())
            streams.create_task(LaneStream(run, lane, "none").deliver())
