"""Delivers lanes in parallel, limited by the requests in flight. Memory use does not grow with the number of lanes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum

from spectron_migrate.delivery.brake import Stopping
from spectron_migrate.delivery.key_question import remember_held_key
from spectron_migrate.delivery.lane import deliver_lane
from spectron_migrate.delivery.longest_lanes import MOST
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import MigrateError
from spectron_migrate.ledger import lanes, sessions
from spectron_migrate.ledger.read.known import FIRST, LONG

PAGE = 64
"""Lanes that one query of the ledger returns."""
LANES_PER_REQUEST = 2
"""How many lanes are at work for each request that may be in flight.

While one lane waits for the ledger, another one sends.
"""

HEAD_START_S = 1.0
"""The first lanes are alone for this long, unless something is sent earlier.

So the first memory does not wait for everything that all lanes look up.
"""
ASK_AGAIN_S = 1.0
"""How often to ask for the lanes of other processes."""


class Entry(Enum):
    """What the queue of lanes holds beside their names."""

    LONGEST = 1
    """The longest lane that waits when this is taken from the queue."""
    END = 2


Queue = asyncio.Queue[str | Entry]


async def deliver_lanes(run: Run) -> None:
    """Send everything that is left of the run's plan, until all of it is decided or deferred, or the run stops.

    Raises MigrateError if the ledger cannot be written.
    """
    workers = LANES_PER_REQUEST * run.limiter.max_in_flight
    run.spare_streams = workers
    if run.ledger.workers is None or run.ledger.workers.is_alone:
        await run.writer.durable(sessions.orphan_openings)
    await remember_held_key(run)
    queue: Queue = asyncio.Queue(maxsize=PAGE)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_queue_lanes(run, queue, workers))
            for number in range(workers):
                if number == FIRST:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(run.all_may_begin.wait(), HEAD_START_S)
                group.create_task(_work(run, queue))
    except ExceptionGroup as failures:
        expected = _first_expected(failures)
        if expected is None:
            raise
        raise expected from failures


def _first_expected(failures: ExceptionGroup[Exception]) -> MigrateError | None:
    """The first MigrateError among the failures of all tasks; None if all of them are bugs."""
    for each in failures.exceptions:
        found = _first_expected(each) if isinstance(each, ExceptionGroup) else each
        if isinstance(found, MigrateError):
            return found
    return None


async def _queue_lanes(run: Run, queue: Queue, workers: int) -> None:
    first = await _start(run)
    begun = [lane.name for lane in await run.writer.grouped(lanes.lanes_to_do, run.plan, after=first, limit=FIRST)]
    for lane in begun:
        await queue.put(lane)
    long = await run.writer.grouped(lanes.longest_lanes, run.plan, least=LONG, most=MOST)
    for _ in range(run.longest.add(long, at_work=begun)):
        await queue.put(Entry.LONGEST)
    before, left = 0, await _queue_once(run, queue, queued={*begun, *long})
    while left and left != before:
        # Sends that some lanes had reserved and did not use are left for other lanes.
        run.is_out_of_sends = run.left_lanes = False
        before, left = left, await _queue_once(run, queue, queued=set())
    run.all_may_begin.set()
    for _ in range(workers):
        await queue.put(Entry.END)


async def _start(run: Run) -> str | None:
    """The lane after which this process begins; None for the first one, whose scope it registered ahead.

    Processes that joined begin at random lanes, so that they rarely meet.
    """
    workers = run.ledger.workers
    return await run.writer.grouped(lanes.random_lane) if workers is not None and workers.joined else None


async def _queue_once(run: Run, queue: Queue, *, queued: set[str]) -> int:
    """Deliver all lanes once; returns how many memories may still be sent from lanes that were left."""
    first = await _start(run)
    await _queue_from(run, queue, queued, after=first)
    if first is not None:
        await _queue_from(run, queue, queued, until=first)
    if run.ledger.workers is not None:
        await _queue_those_of_others(run, queue)
    await queue.join()
    return await run.budget.sends_left() if run.left_lanes and not run.should_stop() else 0


async def _queue_from(
    run: Run,
    queue: Queue,
    queued: set[str],
    *,
    after: str | None = None,
    until: str | None = None,
) -> None:
    """Queue all lanes that have something to do, after one of them or up to one of them."""
    while not run.should_stop():
        found = await run.writer.grouped(lanes.lanes_to_do, run.plan, after=after, until=until, limit=PAGE)
        for lane in found:
            if lane.name in queued:
                continue
            if run.is_out_of_sends and not lane.has_doubts:
                await queue.join()  # lanes at work may still return sends that they do not use
                if run.is_out_of_sends:
                    continue
            await queue.put(lane.name)
        if len(found) < PAGE:
            break
        after = found[-1].name


async def _queue_those_of_others(run: Run, queue: Queue) -> None:
    """Ask again for lanes that other processes had, until those have delivered them or have ended."""
    while not run.should_stop():
        await queue.join()
        wanted, run.lanes_elsewhere = run.lanes_elsewhere, set()
        if not wanted:
            return
        with suppress(Stopping):
            await run.brake.sleep(ASK_AGAIN_S)
        for lane in sorted(wanted):
            await queue.put(lane)


async def _work(run: Run, queue: Queue) -> None:
    while (entry := await queue.get()) is not Entry.END:
        lane = entry if isinstance(entry, str) else run.longest.take()
        # The queue is emptied even after a stop, because otherwise `_queue_lanes` would wait on a full queue for ever.
        while lane is not None and not run.should_stop() and not run.defer_if_throttled(lane):
            await _deliver_own(run, lane)
            lane = run.longest.instead_of(lane)
        queue.task_done()


async def _deliver_own(run: Run, lane: str) -> None:
    """Deliver the lane, unless another process has it."""
    work = await run.writer.grouped(lanes.take_lane, run.plan, lane)
    if work is None:
        run.lanes_elsewhere.add(lane)
        return
    if run.ledger.workers is None:
        await deliver_lane(run, lane, work)
        return
    from spectron_migrate.ledger.workers import SETTLE_S  # who delivers alone does without it

    try:
        if work.has_doubts:
            # The process that left it in doubt may be cut off from the ledger but not from the server, without knowing
            # it yet.
            await run.pause(SETTLE_S, lane, "another process may still be sending")
        if not run.should_stop():
            await deliver_lane(run, lane, work)
    finally:
        run.writer.post(lanes.free_lane, lane)
