"""Delivers one lane: first decides what is in doubt, then sends what is planned.

The `full` facts are sent oldest first, with at most one undecided send in the lane. The `none` facts are sent side by
side, with at most one undecided send in each session (docs/protocol.md, Order).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

from spectron_migrate.delivery.batch import recover_batch
from spectron_migrate.delivery.outcomes import SendOutcome
from spectron_migrate.delivery.recovery import recover
from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.stream import Feed, Stream
from spectron_migrate.ledger import batches, lanes, sending, sessions
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.lanes import LaneWork
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.sessions import SessionRow

GOES_ON = (SendOutcome.DECIDED, SendOutcome.SESSION_ENDED, SendOutcome.PLANNED_AGAIN)
"""Outcomes of recovery after which the lane goes on: everything is decided or planned again."""


async def deliver_lane(run: Run, lane: str, work: LaneWork) -> None:
    """Decide what is in doubt, then send until nothing is left, the lane is held, or the run stops."""
    none: asyncio.Task[bool] | None = None
    async with asyncio.TaskGroup() as group:
        if work.has_doubts or work.has_full:
            group.create_task(_deliver_full(run, lane, work))
        if work.has_doubts or work.has_none:
            none = group.create_task(_deliver_none(run, lane, work))
    if work.has_doubts and none is not None and none.result():
        await _send_none(run, lane)  # facts in doubt may have turned out to be late


async def _deliver_full(run: Run, lane: str, work: LaneWork) -> None:
    if work.has_doubts and not await _decide_full(run, lane):
        return
    if not (await run.writer.grouped(lanes.is_held, lane) if work.has_doubts else work.is_held):
        await Stream(run, Feed(run, lane, "full"), "full").deliver()


async def _decide_full(run: Run, lane: str) -> bool:
    """Decide what is in doubt; False if the lane must not go on."""
    facts = await run.writer.grouped(sending.intended_facts, lane=lane)
    doubts = [fact for fact in facts if fact.infer == "full"]
    # They were sent one after the other, over all sessions of the lane, so they are decided together.
    if doubts and (run.should_stop() or await recover(run, doubts) not in GOES_ON):
        return False
    for batch in await run.writer.grouped(batches.intended_batches, lane):
        if batch.session.infer == "full" and (run.should_stop() or await recover_batch(run, batch) not in GOES_ON):
            return False
    if run.everything_is_late:
        await run.writer.durable(lanes.mark_late, run.plan, lane)
    return True


async def _deliver_none(run: Run, lane: str, work: LaneWork) -> bool:
    """Decide and send the `none` facts; False if that was deferred. A remaining doubt holds only its own session."""
    if work.has_doubts and not await _decide_none(run, lane):
        return False
    await _send_none(run, lane)
    return True


async def _send_none(run: Run, lane: str) -> None:
    most = run.session_size * (1 + run.spare_streams)
    planned = await run.writer.grouped(lanes.count_planned, run.plan, lane, "none", most)
    if not planned or run.should_stop():
        return
    feed = Feed(run, lane, "none")
    with _extra_streams(run, ceil(planned / run.session_size) - 1) as extra:
        async with asyncio.TaskGroup() as group:
            for _ in range(1 + extra):
                group.create_task(Stream(run, feed, "none").deliver())


async def _decide_none(run: Run, lane: str) -> bool:
    """Decide what is in doubt, session by session; False if that was deferred."""
    by_session: dict[int, list[IntendedFact]] = {}
    for fact in await run.writer.grouped(sending.intended_facts, lane=lane):
        if fact.infer == "none":
            by_session.setdefault(fact.session.id, []).append(fact)
    intended = await run.writer.grouped(batches.intended_batches, lane)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_recover_session(run, facts[0].session, facts)) for facts in by_session.values()]
        tasks += [
            group.create_task(_recover_session(run, batch.session, batch))
            for batch in intended
            if batch.session.infer == "none"
        ]
    # If one session was deferred, the next facts may have to wait for the same reason.
    return all(task.result() is not SendOutcome.DEFERRED for task in tasks)


async def _recover_session(run: Run, session: SessionRow, doubt: Sequence[IntendedFact] | IntendedBatch) -> SendOutcome:
    """Decide what is in doubt in a session of `none` facts; if that fails, the session is closed."""
    if run.should_stop():
        return SendOutcome.DEFERRED
    run.taken_sessions.add(session.id)
    try:
        outcome = await (recover_batch(run, doubt) if isinstance(doubt, IntendedBatch) else recover(run, doubt))
        failed = outcome not in (*GOES_ON, SendOutcome.DEFERRED)
        if failed and session.selector not in run.stopped_scopes and run.stop is None:
            await run.writer.durable(sessions.close_session, session.id)
        return outcome
    finally:
        run.taken_sessions.discard(session.id)


@contextmanager
def _extra_streams(run: Run, wanted: int) -> Iterator[int]:
    """Reserve up to this many of the streams that all lanes share."""
    extra = min(wanted, run.spare_streams)
    run.spare_streams -= extra
    try:
        yield extra
    finally:
        run.spare_streams += extra
