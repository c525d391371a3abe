"""Sends planned facts one after the other, in sessions that no other stream writes to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from spectron_migrate.delivery.batch import send_batch
from spectron_migrate.delivery.evidence import text_of
from spectron_migrate.delivery.outcomes import SendOutcome
from spectron_migrate.delivery.recovery import decide_first_send
from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.sessions import open_session
from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.ledger import batches, sending, sessions
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.read.turns import claimed_turns
from spectron_migrate.ledger.sending import IntendedFact, PlannedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import Infer, Receipt, Selector
from spectron_migrate.spectron.wire import NotBegun

INTENTS_PER_COMMIT = 8
"""Facts whose intents are made durable in one commit."""
GOES_AGAIN = (SendOutcome.SESSION_ENDED, SendOutcome.PLANNED_AGAIN)
"""Outcomes after which a fact is sent again at once: in a new session, or under another key."""
BATCH_SIZE = 32
"""The most facts in one batch. Spectron publishes no limit."""


class Feed:
    """The planned facts of one lane with one `infer`, oldest first, shared by the streams of the lane."""

    def __init__(self, run: Run, lane: str, infer: Infer) -> None:
        self.lane = lane
        self._run, self._infer = run, infer
        self._page: deque[PlannedFact] = deque()
        self._after = ""
        self._is_over = False
        self._reading = asyncio.Lock()

    async def take(self, most: int) -> list[PlannedFact]:
        """The next facts; `none` facts of stopped scopes are left for a later run."""
        async with self._reading:
            while True:
                if not self._page:
                    # A few at first, because many lanes begin at once and the first memory waits for everything that
                    # they read.
                    await self._read(4 * most if self._after else most)
                facts = [self._page.popleft() for _ in range(min(most, len(self._page)))]
                if self._infer == "full" or not facts:
                    return facts
                if wanted := [fact for fact in facts if fact.selector not in self._run.stopped_scopes]:
                    return wanted

    async def _read(self, most: int) -> None:
        if self._is_over:
            return
        found = await self._run.writer.grouped(
            sending.next_planned, self._run.plan, self.lane, self._infer, most, after=self._after
        )
        if found:
            self._after = found[-1].order_key
        self._is_over = len(found) < most
        self._page.extend(found)

    def look_again(self) -> None:
        """Read the ledger again, because if a message was taken apart, its memories are now planned in its lane."""
        self._is_over = False

    def give_back(self, facts: Sequence[PlannedFact]) -> None:
        """Return facts that were not sent; `take` gives them first."""
        self._page.extendleft(reversed(facts))


class Stream:
    """Sends what a feed gives it. A lane has one stream of `full` facts, and may have several of `none` facts."""

    def __init__(self, run: Run, feed: Feed, infer: Infer) -> None:
        self._run = run
        self._feed = feed
        self._infer = infer
        self._sessions: dict[tuple[Selector, str | None], SessionRow] = {}
        self._claimed: dict[int, set[str]] = {}
        """Turns that have a receipt, by session."""

    async def deliver(self) -> None:
        """Send until nothing is left, the stream is held, or the run stops."""
        run = self._run
        send = self._send_batches if run.batches else self._send_singly
        try:
            while not run.should_stop():
                facts = await self._feed.take(BATCH_SIZE if run.batches else INTENTS_PER_COMMIT)
                if facts and facts[0].selector in run.stopped_scopes:
                    return  # the feed gives no such `none` facts
                allowed = await run.reserve_sends(len(facts))
                self._feed.give_back(facts[allowed:])
                # If nothing of the allowance is left, other lanes have reserved it and are sending.
                if not allowed or not await send(facts[:allowed]):
                    return
                if self._infer == "full":
                    run.longest.note_sent(self._feed.lane, allowed)
                    if run.longest.should_give_way(self._feed.lane):
                        return
        finally:
            self._release_sessions()

    # -- one memory a request -----------------------------------------------------------------------------

    async def _send_singly(self, facts: Sequence[PlannedFact]) -> bool:
        """Make intents durable, then send them one by one; False if the stream must not go on."""
        run = self._run
        pairs: list[tuple[PlannedFact, SessionRow]] = []
        for fact in facts:
            session = await self._session_for(fact)
            if session is None:
                break
            pairs.append((fact, session))
            self._note_positions(session, 1)
        if not pairs:
            return self._leave_unsent(facts)
        intended = await run.writer.durable(sending.intend, pairs, run.server_now(), run.principal)
        if len(intended) < len(pairs):
            self._feed.look_again()
        run.release_sends(len(facts) - len(intended))
        for at, intent in enumerate(intended):
            outcome = SendOutcome.NEVER_SENT if run.should_stop() else await self._send(intent)
            if outcome is SendOutcome.DECIDED:
                continue
            if outcome is SendOutcome.DEFERRED:
                self._drop_session(intent.session)
            is_unsent = outcome in (SendOutcome.NEVER_SENT, *GOES_AGAIN)
            unsent = intended[at + (not is_unsent) :]
            if outcome is SendOutcome.SESSION_ENDED:
                await run.writer.durable(sessions.close_session, intent.session.id)
                await run.writer.durable(sending.not_stored, intent.id)
            await self._plan_again([each.id for each in unsent])
            if outcome in GOES_AGAIN:
                pass  # these facts come next
            elif outcome in (SendOutcome.NEVER_SENT, SendOutcome.DEFERRED) or not await self._may_pass(intent.session):
                return False
            ids = {each.id for each in unsent}
            self._feed.give_back([fact for fact, _ in pairs if fact.id in ids] + list(facts[len(pairs) :]))
            return True
        return len(pairs) == len(facts) or self._may_skip(facts[len(pairs) :])

    async def _send(self, fact: IntendedFact) -> SendOutcome:
        run = self._run
        cost = estimate_tokens(text_of(fact), fact.infer)[1] if run.max_tokens is not None else 0
        if not await run.spend_tokens(cost):
            return SendOutcome.NEVER_SENT
        result = await run.send(fact, rank=run.rank_of(self._feed.lane, self._infer))
        if isinstance(result, Receipt) and await self._claim(fact, result.turn_id):
            # Neither awaited nor durable, because a lost receipt is a 200, and the same bytes bring it back.
            run.writer.collect(sending.receipts, (fact.id, result))
            if result.turn_id is not None:
                run.deferred.keys.newest_held = (fact, result.turn_id)
            run.counters.written += 1
            run.counters.tokens += (result.tokens if result.tokens is not None else cost) - cost
            run.count_decided()
            return SendOutcome.DECIDED
        if isinstance(result, NotBegun):
            run.counters.tokens -= cost
        self._claimed.pop(fact.session.id, None)  # recovery claims turns without telling this stream
        self._feed.look_again()
        return await decide_first_send(run, fact, result)

    async def _claim(self, fact: IntendedFact, turn_id: str | None) -> bool:
        """Claim the turn for the fact; False if the response names none, or one that another fact has.

        No turn may be claimed twice, whatever a response names. The session's claimed turns are read once.
        """
        session = fact.session.id
        if turn_id is None:
            return False
        if session not in self._claimed:
            self._claimed[session] = await self._run.writer.grouped(claimed_turns, session)
        if turn_id in self._claimed[session]:
            return False
        self._claimed[session].add(turn_id)
        return True

    # -- many memories a request --------------------------------------------------------------------------

    async def _send_batches(self, facts: Sequence[PlannedFact]) -> bool:
        """Send together the facts that share a scope, a run and a session with room, one batch after the other."""
        run = self._run
        waiting = list(facts)
        while waiting:
            session = await self._session_for(waiting[0])
            if session is None:
                return self._leave_unsent(waiting)
            fitting = self._alike(waiting)[: run.session_size - session.used]
            batch = await run.writer.durable(batches.intend_batch, fitting, session, run.server_now(), run.principal)
            done = {fact.id for fact in batch.facts} if batch else {fact.id for fact in fitting}
            waiting = [fact for fact in waiting if fact.id not in done]
            if batch is None:
                self._feed.look_again()
                run.release_sends(len(done))
                continue
            self._note_positions(session, len(batch.facts))
            if not await self._send_batch(batch):
                run.release_sends(len(waiting))
                return False
        return True

    def _alike(self, facts: Sequence[PlannedFact]) -> list[PlannedFact]:
        """The facts with the scope and run of the first one.

        If they are `full`, only those up to the first other one, in order.
        """

        def is_alike(fact: PlannedFact) -> bool:
            return (fact.selector, fact.run) == (facts[0].selector, facts[0].run)

        return list(takewhile(is_alike, facts) if self._infer == "full" else filter(is_alike, facts))

    async def _send_batch(self, batch: IntendedBatch) -> bool:
        run = self._run
        outcome, parts = await send_batch(run, batch, rank=run.rank_of(self._feed.lane, self._infer))
        if outcome is not SendOutcome.DECIDED:
            self._feed.look_again()
        if outcome is SendOutcome.NEVER_SENT:
            await self._plan_again([fact.id for fact in batch.facts])
            return False
        if outcome is SendOutcome.DEFERRED:
            self._drop_session(batch.session)
            return False
        if outcome is SendOutcome.SESSION_ENDED:
            self._drop_session(batch.session)
        for part in parts:
            # Facts that the server did not take are sent again in smaller sets, each under a key of its own.
            if run.should_stop() or not await self._send_batches(part):
                return False
        is_done = outcome in (SendOutcome.DECIDED, SendOutcome.SESSION_ENDED)
        return is_done or await self._may_pass(batch.session)

    # -- sessions -----------------------------------------------------------------------------------------

    async def _session_for(self, fact: PlannedFact) -> SessionRow | None:
        run = self._run
        if fact.selector in run.stopped_scopes:
            return None
        kept = self._sessions.get((fact.selector, fact.run))
        if kept is not None and kept.used < run.session_size:
            return kept
        if kept is not None:
            run.writer.post(sessions.close_session, kept.id)
            self._drop_session(kept)
        found = await open_session(run, self._feed.lane, fact)
        if found is not None:
            self._sessions[fact.selector, fact.run] = found
            if not found.used:
                self._claimed[found.id] = set()
        return found

    def _note_positions(self, session: SessionRow, count: int) -> None:
        self._sessions[session.selector, session.run] = replace(session, used=session.used + count)

    def _drop_session(self, session: SessionRow) -> None:
        """Stop using the session, and keep other streams from using it.

        A write to it is in doubt, or positions in it are not on disk yet.
        """
        self._sessions.pop((session.selector, session.run), None)
        self._claimed.pop(session.id, None)

    def _release_session(self, session: SessionRow) -> None:
        """Stop using the session, so that another stream may use it."""
        self._drop_session(session)
        self._run.taken_sessions.discard(session.id)

    def _release_sessions(self) -> None:
        for session in list(self._sessions.values()):
            self._release_session(session)

    # -- what was not sent --------------------------------------------------------------------------------

    def _leave_unsent(self, facts: Sequence[PlannedFact]) -> bool:
        self._run.release_sends(len(facts))
        return self._may_skip(facts)

    def _may_skip(self, facts: Sequence[PlannedFact]) -> bool:
        """Whether the stream goes on although the scope of the first fact is stopped: only if it sends `none` facts."""
        run = self._run
        if self._infer == "full" or run.stop is not None or facts[0].selector not in run.stopped_scopes:
            return False
        self._feed.give_back([fact for fact in facts if fact.selector not in run.stopped_scopes])
        return True

    async def _may_pass(self, session: SessionRow) -> bool:
        """Whether the stream goes on after a doubt in the session.

        A doubt holds a whole `full` lane; with `none` facts it holds only the session, which is closed.
        """
        run = self._run
        if self._infer == "full" or run.stop is not None:
            return False
        if session.selector not in run.stopped_scopes:
            await run.writer.durable(sessions.close_session, session.id)
        self._release_session(session)
        return True

    async def _plan_again(self, facts: Sequence[int]) -> None:
        """Plan again the intents that were certainly never sent."""
        await self._run.writer.durable(sending.back_to_planned, facts)
        self._run.release_sends(len(facts))
        self._release_sessions()
