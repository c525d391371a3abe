"""Many memories in one request: sent whole, decided whole, and where only a part arrived, by the part.

What a batch that was not answered left behind shows in the turns: all of it, then it is stored; none, then the
same bytes go again; a part, then the server may still be at work. A part counts once two listings a quarter
of an hour apart agree; what is missing of it goes in a new batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.settle import (
    KEY_HOLDS,
    LISTING_EVERY_S,
    RUNNING_PATIENCE_S,
    TRIES,
    Outcome,
    give_up,
    is_outlasted,
    listings,
    unclaimed,
)
from spectron_migrate.delivery.tokens import tokens_of
from spectron_migrate.delivery.waiting import Unanswered
from spectron_migrate.ledger import Ledger, batches, overtaken, sending
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.sending import IntendedFact, PlannedFact
from spectron_migrate.records import parse_time, same_text
from spectron_migrate.spectron.answers import (
    BatchReceipt,
    BatchVerdict,
    Doubt,
    KeyStopped,
    OtherBody,
    Refused,
    Running,
    ScopeStopped,
    WrongSession,
)
from spectron_migrate.spectron.api import Turn
from spectron_migrate.spectron.wire import InDoubt, NotBegun

PART_SETTLES_S = 900.0
"""How far two listings that show the same part lie apart."""
LOOK_EVERY_S = 30.0

_Said = BatchVerdict | NotBegun | Unanswered | None
Parts = list[list[PlannedFact]]
"""Facts that are planned again, each list to be sent together."""


async def send_batch(run: Run, batch: IntendedBatch) -> tuple[Outcome, Parts]:
    """Send it for the first time; what the server did not take comes back in parts."""
    texts = batch.texts
    cost = sum(tokens_of(text, batch.session.infer)[1] for text in texts) if run.max_tokens is not None else 0
    if not run.afford(cost):
        return Outcome.NEVER_SENT, []
    try:
        verdict: BatchVerdict = await run.send_batch(batch)
    except NotBegun:
        run.counters.tokens -= cost
        return Outcome.NEVER_SENT, []
    except Unanswered:
        return Outcome.WAITS, []
    except InDoubt as problem:
        verdict = Doubt(problem.reason, problem.ended)
    return await _Doubtful(run, batch).settle(verdict)


async def settle_batch(run: Run, batch: IntendedBatch) -> Outcome:
    """Decide a batch that an earlier process sent, or meant to send. What it did not store is planned again."""
    outcome, _ = await _Doubtful(run, batch).settle(None)
    return outcome


class _Doubtful:
    """One batch until it is decided."""

    def __init__(self, run: Run, batch: IntendedBatch) -> None:
        self._run = run
        self._batch = batch
        self._texts = batch.texts
        self._sent_after = batch.sent_after
        self._effort = run.effort(batch.key)

    async def settle(self, verdict: _Said) -> tuple[Outcome, Parts]:
        """From what the last send said, or from nothing, to a decision."""
        outcome, parts = await self._settle(verdict)
        if outcome is not Outcome.WAITS:
            self._run.waiting.forget(self._batch.key)
        return outcome, parts

    async def _settle(self, verdict: _Said) -> tuple[Outcome, Parts]:
        while self._run.is_due(self._batch.key):
            ended = await self._by_verdict(verdict)
            if ended is not None:
                return ended, []
            decided = await self._by_turns()
            if decided is not None:
                return decided
            if isinstance(verdict, Refused | OtherBody) or self._poisonous(verdict):
                return await self._not_taken(verdict)
            if self._gives_up():
                return Outcome.HELD, []
            if verdict is not None and not await self._pause(self._effort.pause_s):
                break
            if await self._is_overtaken():
                return await self._let_go()
            verdict = await self._again()
        return Outcome.WAITS, []

    async def _by_verdict(self, verdict: _Said) -> Outcome | None:
        run, batch = self._run, self._batch
        match verdict:
            case BatchReceipt():
                run.writer.post(batches.receipt_batch, batch, verdict)
                self._count(len(batch.facts))
                return Outcome.DECIDED
            case NotBegun() | Unanswered():
                return Outcome.WAITS
            case KeyStopped() | ScopeStopped():
                return Outcome.HELD
            case WrongSession(session_id):
                reason = f"Spectron wrote to session {session_id} instead of ours"
                run.stopped_scopes[batch.session.selector] = reason
                return await give_up(run, batch.facts, reason)
            case Running():
                self._effort.waits += 1
            case Doubt():
                self._effort.tries += 1
        return None

    async def _by_turns(self) -> tuple[Outcome, Parts] | None:
        """What the server has decides; None where it has nothing of the batch."""
        turns = await self._turns()
        if turns and not isinstance(turns, Outcome) and len(turns) < len(self._texts):
            turns = await self._lasting_part(turns)
        if isinstance(turns, Outcome):
            return turns, []
        return await self._stored(turns) if turns else None

    async def _is_overtaken(self) -> bool:
        """Whether Mem0 has replaced or deleted something of it meanwhile: the same bytes would bring that back."""
        facts = self._batch.facts
        return await self._run.writer.grouped(
            lambda ledger: any(overtaken.is_overtaken(ledger, fact.id) for fact in facts)
        )

    async def _let_go(self) -> tuple[Outcome, Parts]:
        """Give the server the time that a request of ours may take; what then never showed never left.

        What is still wanted of it goes again as another set, under another key.
        """
        for _ in range(listings(self._run)):
            if is_outlasted(self._run, self._batch.key):
                break
            if not await self._pause(LISTING_EVERY_S):
                return Outcome.WAITS, []
            decided = await self._by_turns()
            if decided is not None:
                return decided
        facts = self._batch.facts
        await self._run.writer.durable(sending.back_to_planned, [fact.id for fact in facts])
        return Outcome.DECIDED, [_planned(facts)]

    async def _turns(self) -> list[Turn] | Outcome:
        """The turns that the server has of the batch: they must be its first messages, in order."""
        batch = self._batch
        seen = await unclaimed(self._run, batch.session, batch.facts)
        if isinstance(seen, Outcome):
            return seen
        agree = all(same_text(turn.content, text) for turn, text in zip(seen, self._texts, strict=False))
        if len(seen) > len(self._texts) or not agree:
            return await give_up(self._run, batch.facts, "the turns of the session are not the messages of the batch")
        return seen

    async def _lasting_part(self, turns: list[Turn]) -> list[Turn] | Outcome:
        """Look on until nothing has changed for so long that nobody can be at work on it any more."""
        effort = self._effort
        while True:
            part = tuple(turn.id for turn in turns)
            if part != effort.part:
                effort.part, effort.part_since = part, self._run.clock()
            if self._run.clock() - effort.part_since >= PART_SETTLES_S:
                return turns
            if not await self._pause(LOOK_EVERY_S):
                return Outcome.WAITS
            now = await self._turns()
            if isinstance(now, Outcome) or len(now) == len(self._texts):
                return now
            turns = now

    async def _pause(self, seconds: float) -> bool:
        return await self._run.pause(seconds, self._batch.key, "what became of a batch shows with time")

    async def _stored(self, turns: Sequence[Turn]) -> tuple[Outcome, Parts]:
        """What is there has its receipt; what is not goes in a new batch, under a new key."""
        facts, rest = self._batch.facts[: len(turns)], self._batch.facts[len(turns) :]
        full = self._batch.session.infer == "full"

        def keep(ledger: Ledger) -> None:
            for fact, turn in zip(facts, turns, strict=True):
                sending.stored_by_turns(ledger, fact.id, turn.id, turn.seq, full=full, altered=False)
            sending.back_to_planned(ledger, [fact.id for fact in rest])

        await self._run.writer.durable(keep)
        self._count(len(facts))
        return Outcome.DECIDED, [_planned(rest)] if rest else []

    async def _not_taken(self, verdict: _Said) -> tuple[Outcome, Parts]:
        """Nothing of it is there. One memory of many may be the reason: halves tell which, and the others go in."""
        run, facts = self._run, self._batch.facts
        if len(facts) == 1 or isinstance(verdict, OtherBody):
            reason = verdict.reason if isinstance(verdict, Refused | OtherBody | Doubt) else "not taken"

            def refuse(ledger: Ledger) -> None:
                for fact in facts:
                    sending.refuse(ledger, fact.id, reason)

            await run.writer.durable(refuse)
            run.advance(len(facts))
            return Outcome.DECIDED, []
        await run.writer.durable(sending.back_to_planned, [fact.id for fact in facts])
        half = len(facts) // 2
        return Outcome.DECIDED, [_planned(facts[:half]), _planned(facts[half:])]

    def _poisonous(self, verdict: _Said) -> bool:
        """Whether the server fails at this batch alone, again and again, and tells so to the end."""
        ended = isinstance(verdict, Doubt) and verdict.ended
        return ended and self._effort.tries >= TRIES and self._run.others_succeed(self._effort)

    def _gives_up(self) -> bool:
        waited_s = self._run.clock() - self._effort.began
        return self._effort.tries >= TRIES or (self._effort.waits > 0 and waited_s > RUNNING_PATIENCE_S)

    async def _again(self) -> BatchVerdict | NotBegun | Unanswered:
        """The same bytes. Beyond the life of their key the turns have decided that nothing is there."""
        run = self._run
        old = parse_time(run.server_now()) - parse_time(self._sent_after) >= KEY_HOLDS
        if old or self._batch.sent_by != run.principal:
            self._sent_after = run.server_now()
            await run.writer.durable(batches.renew_batch, self._batch, self._sent_after, run.principal)
        run.counters.retries += 1
        try:
            return await run.send_batch(self._batch)
        except (NotBegun, Unanswered) as problem:
            return problem
        except InDoubt as problem:
            return Doubt(problem.reason, problem.ended)

    def _count(self, facts: int) -> None:
        self._run.counters.written += facts
        self._run.advance(facts)


def _planned(facts: Sequence[IntendedFact]) -> list[PlannedFact]:
    return [
        PlannedFact(fact.id, fact.mem0_id, fact.session.selector, fact.session.run, fact.infer, fact.order_key)
        for fact in facts
    ]
