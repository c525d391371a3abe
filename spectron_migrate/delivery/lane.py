"""The facts of one lane: the `full` ones oldest first, one undecided send at a time; the `none` ones side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil

from spectron_migrate.delivery.batch import send_batch, settle_batch
from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.sessions import open_session
from spectron_migrate.delivery.settle import Outcome, settle, text_of
from spectron_migrate.delivery.tokens import tokens_of
from spectron_migrate.delivery.waiting import Unanswered
from spectron_migrate.ledger import batches, sending, sessions
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.sending import IntendedFact, PlannedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import Infer, Selector
from spectron_migrate.spectron.answers import (
    Doubt,
    KeyStopped,
    OtherBody,
    Receipt,
    Refused,
    Running,
    ScopeStopped,
    WrongSession,
)
from spectron_migrate.spectron.wire import InDoubt, NotBegun

AHEAD = 8
"""Facts whose intent is made durable in one commit."""
MESSAGES = 32
"""Facts in one batch, at most; no limit is published."""


class Feed:
    """The planned facts of one kind of a lane, oldest first, to each stream of it a few."""

    def __init__(self, run: Run, lane: str, infer: Infer) -> None:
        """Nothing is read yet."""
        self._run, self._lane, self._infer = run, lane, infer
        self._page: deque[PlannedFact] = deque()
        self._after = ""
        self._reading = asyncio.Lock()

    async def take(self, most: int) -> list[PlannedFact]:
        """The next facts; a scope that is stopped keeps its own for another run."""
        async with self._reading:
            while True:
                if not self._page:
                    await self._read(4 * most)
                facts = [self._page.popleft() for _ in range(min(most, len(self._page)))]
                if self._infer == "full" or not facts:
                    return facts
                if wanted := [fact for fact in facts if fact.selector not in self._run.stopped_scopes]:
                    return wanted

    async def _read(self, most: int) -> None:
        found = await self._run.writer.grouped(
            sending.next_planned, self._run.plan, self._lane, self._infer, most, after=self._after
        )
        if found:
            self._after = found[-1].order_key
        self._page.extend(found)

    def give_back(self, facts: Sequence[PlannedFact]) -> None:
        """They were not sent after all, and are the next again."""
        self._page.extendleft(reversed(facts))


async def deliver_lane(run: Run, lane: str) -> None:
    """Settle what is in doubt, then send until nothing is left, the lane is held, or the run stops."""
    async with asyncio.TaskGroup() as streams:
        streams.create_task(_deliver_full(run, lane))
        streams.create_task(_deliver_none(run, lane))


async def _deliver_full(run: Run, lane: str) -> None:
    facts = await run.writer.grouped(sending.intended_facts, lane=lane)
    doubts = [fact for fact in facts if fact.infer == "full"]
    # They were sent one after the other over all sessions of the lane.
    if doubts and (run.should_stop() or await settle(run, doubts) is not Outcome.DECIDED):
        return
    for batch in await run.writer.grouped(batches.intended_batches, lane):
        if batch.session.infer == "full" and (
            run.should_stop() or await settle_batch(run, batch) is not Outcome.DECIDED
        ):
            return
    if not await run.writer.grouped(sending.held_full, lane):
        await Stream(run, Feed(run, lane, "full"), "full").deliver()


async def _deliver_none(run: Run, lane: str) -> None:
    """Settle doubts session by session, side by side, then send; a doubt that stays holds its session alone."""
    together: dict[int, list[IntendedFact]] = {}
    for fact in await run.writer.grouped(sending.intended_facts, lane=lane):
        if fact.infer == "none":
            together.setdefault(fact.session.id, []).append(fact)
    doubtful = [batch for batch in await run.writer.grouped(batches.intended_batches, lane) if _is_none(batch)]
    async with asyncio.TaskGroup() as group:
        settling = [group.create_task(_settle_none(run, facts[0].session, facts)) for facts in together.values()]
        settling += [group.create_task(_settle_none(run, batch.session, batch)) for batch in doubtful]
    if any(task.result() is Outcome.WAITS for task in settling):
        return  # what comes after it may wait for the same
    most = run.session_size * (1 + run.spare_streams)
    planned = await run.writer.grouped(sending.count_planned, run.plan, lane, "none", most)
    if not planned or run.should_stop():
        return
    feed = Feed(run, lane, "none")
    with _more_streams(run, ceil(planned / run.session_size) - 1) as more:
        async with asyncio.TaskGroup() as group:
            for _ in range(1 + more):
                group.create_task(Stream(run, feed, "none").deliver())


async def _settle_none(run: Run, session: SessionRow, doubt: Sequence[IntendedFact] | IntendedBatch) -> Outcome:
    """Whatever comes of it, nothing else is written to a session in doubt."""
    if run.should_stop():
        return Outcome.WAITS
    run.taken_sessions.add(session.id)
    try:
        outcome = await (settle_batch(run, doubt) if isinstance(doubt, IntendedBatch) else settle(run, doubt))
        open_end = outcome not in (Outcome.DECIDED, Outcome.WAITS)
        if open_end and session.selector not in run.stopped_scopes and run.stop is None:
            await run.writer.durable(sessions.close_session, session.id)
        return outcome
    finally:
        run.taken_sessions.discard(session.id)


def _is_none(batch: IntendedBatch) -> bool:
    return batch.session.infer == "none"


@contextmanager
def _more_streams(run: Run, wanted: int) -> Iterator[int]:
    """As many sessions side by side as the facts fill, and as all lanes together may have."""
    more = min(wanted, run.spare_streams)
    run.spare_streams -= more
    try:
        yield more
    finally:
        run.spare_streams += more


class Stream:
    """Sends what a feed gives it, one after the other, in sessions that are its own."""

    def __init__(self, run: Run, feed: Feed, infer: Infer) -> None:
        """Of a lane's `full` facts there is one stream; of its `none` facts there may be many."""
        self._run = run
        self._feed = feed
        self._infer = infer
        self._sessions: dict[tuple[Selector, str | None], SessionRow] = {}
        self._claimed: dict[int, set[str]] = {}
        """Turns of these sessions that have a receipt."""

    async def deliver(self) -> None:
        """Send until nothing is left, the stream is held, or the run stops."""
        run = self._run
        send = self._send_batches if run.batches else self._send_singly
        try:
            while not run.should_stop():
                facts = await self._feed.take(MESSAGES if run.batches else AHEAD)
                allowed = run.take(len(facts))
                self._feed.give_back(facts[allowed:])
                # Where nothing is allowed, other lanes have reserved it, and they send.
                if not allowed or not await send(facts[:allowed]):
                    return
        finally:
            self._forget_sessions()

    # -- one memory a request -----------------------------------------------------------------------------

    async def _send_singly(self, facts: Sequence[PlannedFact]) -> bool:
        """Make intents durable, then send them one by one; False where the stream must not go on."""
        run = self._run
        pairs: list[tuple[PlannedFact, SessionRow]] = []
        for fact in facts:
            session = await self._session_for(fact)
            if session is None:
                break
            pairs.append((fact, session))
            self._use(session, 1)
        if not pairs:
            return self._not_sent(facts)
        intended = await run.writer.durable(sending.intend, pairs, run.server_now(), run.principal)
        run.give_back(len(facts) - len(intended))
        for place, sent in enumerate(intended):
            outcome = Outcome.NEVER_SENT if run.should_stop() else await self._send(sent)
            if outcome is Outcome.DECIDED:
                continue
            if outcome is Outcome.WAITS:
                self._let_be(sent.session)
            rest = intended[place + (outcome is not Outcome.NEVER_SENT) :]
            await self._take_back([one.id for one in rest])
            if outcome in (Outcome.NEVER_SENT, Outcome.WAITS) or not await self._may_pass(sent.session):
                return False
            left = {one.id for one in rest}
            self._feed.give_back([fact for fact, _ in pairs if fact.id in left] + list(facts[len(pairs) :]))
            return True
        return len(pairs) == len(facts) or self._passes_over(facts[len(pairs) :])

    async def _send(self, fact: IntendedFact) -> Outcome:
        run = self._run
        cost = tokens_of(text_of(fact), fact.infer)[1] if run.max_tokens is not None else 0
        if not run.afford(cost):
            return Outcome.NEVER_SENT
        try:
            verdict = await run.send(fact)
        except NotBegun:
            run.counters.tokens -= cost
            return Outcome.NEVER_SENT
        except Unanswered:
            return Outcome.WAITS
        except InDoubt:
            return await self._settle(fact)
        match verdict:
            case Receipt(turn_id=None):
                return await self._settle(fact)
            case Receipt(turn_id) if turn_id in await self._claimed_in(fact.session):
                return await self._settle(fact)
            case Receipt(str() as turn_id):
                self._claimed[fact.session.id].add(turn_id)
                # Nobody waits for this: a receipt that is lost is a 200 that the same bytes bring back.
                run.writer.post(sending.receipt, fact.id, verdict, decided_by="answer")
                run.counters.written += 1
                run.counters.tokens += (verdict.tokens if verdict.tokens is not None else cost) - cost
            case Refused(_, reason):
                await run.writer.durable(sending.refuse, fact.id, reason)
            case WrongSession(session_id):
                reason = f"Spectron wrote to session {session_id} instead of ours"
                run.stopped_scopes[fact.session.selector] = reason
                await run.writer.durable(sending.undecidable, fact.id, reason)
                return Outcome.UNDECIDABLE
            case KeyStopped() | ScopeStopped():
                return Outcome.HELD
            case Doubt() | Running() | OtherBody():
                return await self._settle(fact)
            case _:
                raise AssertionError(f"unclassified: {verdict}")
        run.advance()
        return Outcome.DECIDED

    async def _settle(self, fact: IntendedFact) -> Outcome:
        self._claimed.pop(fact.session.id, None)  # settling claims by itself
        return await settle(self._run, [fact])

    async def _claimed_in(self, session: SessionRow) -> set[str]:
        """The session's claimed turns, looked up once: no turn may be claimed twice, whatever an answer names."""
        if session.id not in self._claimed:
            self._claimed[session.id] = await self._run.writer.grouped(sending.claimed_turns, session.id)
        return self._claimed[session.id]

    # -- many a request -----------------------------------------------------------------------------------

    async def _send_batches(self, facts: Sequence[PlannedFact]) -> bool:
        """The facts that share a scope, a run and a session's room go together, one batch after the other."""
        run = self._run
        waiting = list(facts)
        while waiting:
            session = await self._session_for(waiting[0])
            if session is None:
                return self._not_sent(waiting)
            alike = [one for one in waiting if (one.selector, one.run) == (waiting[0].selector, waiting[0].run)]
            if self._infer == "full":
                alike = waiting[: _prefix(waiting)]
            fitting = alike[: run.session_size - session.used]
            batch = await run.writer.durable(batches.intend_batch, fitting, session, run.server_now(), run.principal)
            done = {fact.id for fact in batch.facts} if batch else {fact.id for fact in fitting}
            waiting = [fact for fact in waiting if fact.id not in done]
            if batch is None:
                run.give_back(len(done))
                continue
            self._use(session, len(batch.facts))
            if not await self._send_one_batch(batch):
                run.give_back(len(waiting))
                return False
        return True

    async def _send_one_batch(self, batch: IntendedBatch) -> bool:
        run = self._run
        outcome, again = await send_batch(run, batch)
        if outcome is Outcome.NEVER_SENT:
            await self._take_back([fact.id for fact in batch.facts])
            return False
        if outcome is Outcome.WAITS:
            self._let_be(batch.session)
            return False
        for part in again:
            # What the server did not take goes again in smaller sets, each under a key of its own.
            if run.should_stop() or not await self._send_batches(part):
                return False
        return outcome is Outcome.DECIDED or await self._may_pass(batch.session)

    # -- what both need -----------------------------------------------------------------------------------

    async def _session_for(self, fact: PlannedFact) -> SessionRow | None:
        run = self._run
        if fact.selector in run.stopped_scopes:
            return None
        cached = self._sessions.get((fact.selector, fact.run))
        if cached is not None and cached.used < run.session_size:
            return cached
        if cached is not None:
            run.writer.post(sessions.close_session, cached.id)
            self._let_be(cached)
        found = await open_session(run, fact)
        if found is not None:
            self._sessions[fact.selector, fact.run] = found
        return found

    def _use(self, session: SessionRow, places: int) -> None:
        self._sessions[session.selector, session.run] = replace(session, used=session.used + places)

    def _forget(self, session: SessionRow) -> None:
        self._let_be(session)
        self._run.taken_sessions.discard(session.id)

    def _let_be(self, session: SessionRow) -> None:
        """No stream of this run writes to it again: a write to it is in doubt, or places in it are not on disk yet."""
        self._sessions.pop((session.selector, session.run), None)
        self._claimed.pop(session.id, None)

    def _forget_sessions(self) -> None:
        for session in list(self._sessions.values()):
            self._forget(session)

    def _not_sent(self, facts: Sequence[PlannedFact]) -> bool:
        self._run.give_back(len(facts))
        return self._passes_over(facts)

    def _passes_over(self, facts: Sequence[PlannedFact]) -> bool:
        """Whether the stream goes on though its scope would not have the first of the facts: `none` ones only."""
        run = self._run
        if self._infer == "full" or run.stop is not None or facts[0].selector not in run.stopped_scopes:
            return False
        self._feed.give_back([fact for fact in facts if fact.selector not in run.stopped_scopes])
        return True

    async def _may_pass(self, session: SessionRow) -> bool:
        """Doubt holds a `full` lane; of a `none` stream it holds only the session, which is used no more."""
        run = self._run
        if self._infer == "full" or run.stop is not None:
            return False
        if session.selector not in run.stopped_scopes:
            await run.writer.durable(sessions.close_session, session.id)
        self._forget(session)
        return True

    async def _take_back(self, facts: Sequence[int]) -> None:
        """Intents that certainly never left wait for their turn again."""
        await self._run.writer.durable(sending.back_to_planned, facts)
        self._run.give_back(len(facts))
        self._forget_sessions()


def _prefix(facts: Sequence[PlannedFact]) -> int:
    """How many of the facts, from the first on, go to the same scope and run."""
    first = (facts[0].selector, facts[0].run)
    return next((at for at, fact in enumerate(facts) if (fact.selector, fact.run) != first), len(facts))
