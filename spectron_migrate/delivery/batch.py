"""Many memories in one request. They are decided together, or by the part that arrived.

If a batch has no usable response, the turns of its session decide (docs/protocol.md, Recovery). If all of its messages
are there, it is stored. If none is, the same bytes are sent again. If some are, the server may still be at work: they
count once nothing has changed for a quarter of an hour, and the other messages are sent in a new batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from spectron_migrate.delivery.deferred import Unanswered
from spectron_migrate.delivery.ended_session import leave_session_of_batch
from spectron_migrate.delivery.evidence import is_key_valid, unclaimed_turns
from spectron_migrate.delivery.key_question import may_be_forgotten
from spectron_migrate.delivery.known_key import settle_known_key
from spectron_migrate.delivery.outcomes import (
    SendOutcome,
    code_of,
    give_up,
    is_late,
    is_of_other_ledger,
    stop_older_ledger,
    stop_wrong_session,
    with_texts,
)
from spectron_migrate.delivery.run import NotYet, Patience, Run, SentBatchResult
from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.delivery.waits import IN_FLIGHT_LIMIT_S, MAX_TRIES, late_listings, outlast_s
from spectron_migrate.ledger import Ledger, batches, overtaken, sending
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.sending import IntendedFact, PlannedFact
from spectron_migrate.records import BatchReceipt, same_text
from spectron_migrate.spectron.answers import (
    Doubt,
    InFlight,
    KeyRejected,
    OtherBody,
    Refused,
    RetryLater,
    ScopeRejected,
    WrongSession,
)
from spectron_migrate.spectron.rows import Turn
from spectron_migrate.spectron.wire import NotBegun

PART_IS_FINAL_AFTER_S = 900.0
"""How long the stored part must stay the same before we assume that the server no longer works on the batch."""
PART_INTERVAL_S = 30.0

Parts = list[list[PlannedFact]]
"""Facts that are planned again, as lists to be sent together."""


async def send_batch(run: Run, batch: IntendedBatch, *, rank: float) -> tuple[SendOutcome, Parts]:
    """Send a batch for the first time. Also returns what the server did not take, in parts to send next.

    `rank` as for `Limiter.slot`.
    """
    texts = batch.texts if run.max_tokens is not None else []
    cost = sum(estimate_tokens(text, batch.session.infer)[1] for text in texts)
    if not await run.spend_tokens(cost):
        return SendOutcome.NEVER_SENT, []
    result = await run.send(batch, rank=rank)
    if isinstance(result, NotBegun):
        run.counters.tokens -= cost
        return SendOutcome.NEVER_SENT, []
    if isinstance(result, Unanswered):
        return SendOutcome.DEFERRED, []
    return await _BatchRecovery(run, batch).decide(result)


async def recover_batch(run: Run, batch: IntendedBatch) -> SendOutcome:
    """Decide a batch that an earlier process sent, or was about to send. What is not stored is planned again."""
    outcome, _ = await _BatchRecovery(run, batch).decide(None)
    return outcome


class _BatchRecovery:
    """Decides one batch."""

    def __init__(self, run: Run, batch: IntendedBatch) -> None:
        self._run = run
        self._batch = batch
        self._texts = batch.texts
        self._sent_after = batch.sent_after
        self._sent_by = batch.sent_by
        self._progress = run.progress(batch.key)
        self._patience = Patience(run, batch.key)

    async def decide(self, result: SentBatchResult | None) -> tuple[SendOutcome, Parts]:
        """Decide it by the result of the last send, or by the listing if there is no result."""
        if not isinstance(result, BatchReceipt):
            self._run.note_doubt(self._batch.facts, _why_in_doubt(result))
        decision = await self._decide(result)
        if decision[0] is SendOutcome.SESSION_ENDED:
            outcome = await leave_session_of_batch(self._run, self._batch)
            ended = outcome is SendOutcome.SESSION_ENDED
            decision = outcome, [_as_planned(self._batch.facts)] if ended else []
        if decision[0] is not SendOutcome.DEFERRED:
            self._run.deferred.forget(self._batch.key)
        if decision[0] is SendOutcome.DECIDED:
            self._run.note_decided(self._batch.facts)
        return decision

    async def _decide(self, result: SentBatchResult | None) -> tuple[SendOutcome, Parts]:
        while self._run.is_due(self._batch.key):
            outcome = await self._by_response(result)
            if outcome is not None:
                return outcome, []
            decision = await self._by_listing()
            if decision is not None:
                return decision
            # From here on the listing has no message of the batch.
            if isinstance(result, OtherBody) and await is_of_other_ledger(self._run, self._batch):
                return await stop_older_ledger(self._run, self._batch.facts), []
            if isinstance(result, OtherBody):
                return await self._settle_known_key(result)
            if isinstance(result, Refused) and result.may_be_of_session and self._may_leave():
                return SendOutcome.SESSION_ENDED, []
            if isinstance(result, Refused) or self._is_poisonous(result):
                return await self._refuse_or_halve(result)
            if self._is_hopeless():
                return SendOutcome.HELD, []
            if result is not None and not await self._pause(self._progress.pause_s):
                break
            is_to_change = await self._is_to_change()
            # Spectron keeps keys by principal. If the batch was sent under another one, the same bytes would be a
            # second write.
            if is_to_change or self._sent_by != self._run.principal:
                decision = await self._wait_for_late_arrival(outlast_s(self._run))
                if decision is not None:
                    return decision
            elif await may_be_forgotten(self._run, self._batch.key):
                decision = await self._wait_for_late_arrival(self._run.api.timeout_s)
                if decision is not None:
                    return decision
            if is_to_change:
                return await self._plan_again()
            result = await self._resend()
        return SendOutcome.DEFERRED, []

    async def _by_response(self, result: SentBatchResult | None) -> SendOutcome | None:
        """The recovery table for the response to a batch; None if the listing decides."""
        run, batch = self._run, self._batch
        match result:
            case None:  # sent by an earlier process
                return None
            case BatchReceipt():  # 200, our session
                run.writer.post(batches.receipt_batch, batch, result)
                run.deferred.keys.newest_held = batch.as_one_fact(), result.receipts[0].turn_id or ""
                self._count_written(len(batch.facts))
                return SendOutcome.DECIDED
            case WrongSession(session_id):  # 200, another session
                return await stop_wrong_session(run, batch.facts, session_id)
            case NotYet():  # not started, so the next listing decides
                return None
            case NotBegun() | RetryLater() | Unanswered():  # not started, or its response may still come
                return SendOutcome.DEFERRED
            case InFlight():  # 409, the first request is still being processed
                self._progress.in_flight += 1
                return None
            case OtherBody() | Refused():  # 409 with another body; 400, 404, 410, 413, 422
                return None
            case ScopeRejected() if await self._turns() is SendOutcome.SESSION_ENDED:  # 403: the session is unknown
                run.stopped_scopes.pop(batch.session.selector, None)
                return SendOutcome.SESSION_ENDED
            case KeyRejected() | ScopeRejected():  # 401, 403
                return SendOutcome.HELD
            case Doubt():  # no response, or any other one
                self._progress.doubts += 1
                return None

    # -- by the listing -----------------------------------------------------------------------------------

    async def _by_listing(self) -> tuple[SendOutcome, Parts] | None:
        """Decide by the part of the batch that the server has stored; None if it has nothing."""
        turns = await self._turns()
        if turns and not isinstance(turns, SendOutcome) and len(turns) < len(self._texts):
            turns = await self._final_part(turns)
        if isinstance(turns, SendOutcome):
            return turns, []
        return await self._keep_stored(turns) if turns else None

    async def _turns(self) -> list[Turn] | SendOutcome:
        """The turns of the batch that the server has. They must be its first messages, in order."""
        batch = self._batch
        turns = await unclaimed_turns(self._run, batch.session, batch.facts)
        if isinstance(turns, SendOutcome):
            return turns
        agree = all(same_text(turn.content, text) for turn, text in zip(turns, self._texts, strict=False))
        if len(turns) > len(self._texts) or not agree:
            pairs = zip_longest((turn.content for turn in turns), self._texts, fillvalue="")
            stored, sent = next((pair for pair in pairs if not same_text(*pair)), ("", ""))
            reason = with_texts("the turns of the session are not the messages of the batch", sent, stored)
            return await give_up(self._run, batch.facts, reason)
        return turns

    async def _final_part(self, turns: list[Turn]) -> list[Turn] | SendOutcome:
        """List the turns until they have not changed for `PART_IS_FINAL_AFTER_S`."""
        progress = self._progress
        while True:
            part = tuple(turn.id for turn in turns)
            if part != progress.partial_turns:
                progress.partial_turns, progress.partial_since = part, self._run.clock()
            if self._run.clock() - progress.partial_since >= PART_IS_FINAL_AFTER_S:
                return turns
            if not await self._pause(PART_INTERVAL_S):
                return SendOutcome.DEFERRED
            listed = await self._turns()
            if isinstance(listed, SendOutcome) or len(listed) == len(self._texts):
                return listed
            turns = listed

    async def _keep_stored(self, turns: Sequence[Turn]) -> tuple[SendOutcome, Parts]:
        """Record receipts for the messages that the server has. The others go in a new batch, under a new key."""
        stored, rest = self._batch.facts[: len(turns)], self._batch.facts[len(turns) :]
        full = self._batch.session.infer == "full"

        def keep(ledger: Ledger) -> None:
            for fact, turn in zip(stored, turns, strict=True):
                sending.stored_by_turns(ledger, fact.id, turn.id, turn.seq, full=full, altered=False)
            sending.back_to_planned(ledger, [fact.id for fact in rest])

        await self._run.writer.durable(keep)
        self._count_written(len(stored))
        return SendOutcome.DECIDED, [_as_planned(rest)] if rest else []

    async def _wait_for_late_arrival(self, seconds: float) -> tuple[SendOutcome, Parts] | None:
        """Send nothing for this long after the last request; None if the batch was never stored."""
        run, key = self._run, self._batch.key
        for pause_s in late_listings(seconds):
            if run.deferred.unsent_s(key, run.clock()) >= seconds:
                break
            if not await self._pause(pause_s):
                return SendOutcome.DEFERRED, []
            decision = await self._by_listing()
            if decision is not None:
                return decision
        return None

    async def _plan_again(self) -> tuple[SendOutcome, Parts]:
        """Plan again, as another batch under another key, the facts that are not overtaken."""
        facts = self._batch.facts
        await self._run.writer.durable(sending.back_to_planned, [fact.id for fact in facts])
        return SendOutcome.DECIDED, [_as_planned(facts)]

    async def _is_to_change(self) -> bool:
        """Whether a resend would bring back a memory that Mem0 has replaced or deleted, or supersede newer facts."""
        run, facts = self._run, self._batch.facts
        is_overtaken = await run.writer.grouped(
            lambda ledger: any(overtaken.is_overtaken(ledger, fact.id) for fact in facts)
        )
        return is_overtaken or await is_late(run, facts[0])

    # -- nothing of it is stored --------------------------------------------------------------------------

    async def _settle_known_key(self, result: OtherBody) -> tuple[SendOutcome, Parts]:
        """Handle messages that another ledger has sent: each fact gets its turn, or is sent again in another batch."""
        run = self._run
        again: list[IntendedFact] = []
        refused: list[IntendedFact] = []
        for fact in self._batch.facts:
            outcome = await settle_known_key(run, fact)
            if outcome in (SendOutcome.DEFERRED, SendOutcome.HELD):
                return outcome, []
            if outcome is SendOutcome.DECIDED:
                run.count_decided()
            (again if outcome is SendOutcome.PLANNED_AGAIN else refused if outcome is None else []).append(fact)
        if refused:
            await self._refuse(refused, result)
        return SendOutcome.DECIDED, [_as_planned(again)] if again else []

    async def _refuse_or_halve(self, result: SentBatchResult | None) -> tuple[SendOutcome, Parts]:
        """Refuse a single fact. Otherwise split the batch in two, because perhaps only one memory is at fault."""
        run, facts = self._run, self._batch.facts
        if len(facts) == 1:
            await self._refuse(facts, result)
            return SendOutcome.DECIDED, []
        await run.writer.durable(sending.back_to_planned, [fact.id for fact in facts])
        half = len(facts) // 2
        return SendOutcome.DECIDED, [_as_planned(facts[:half]), _as_planned(facts[half:])]

    async def _refuse(self, facts: Sequence[IntendedFact], result: SentBatchResult | None) -> None:
        reason = result.reason if isinstance(result, Refused | OtherBody | Doubt) else "not taken"

        def refuse(ledger: Ledger) -> None:
            for fact in facts:
                sending.refuse(ledger, fact.id, reason)

        await self._run.writer.durable(refuse)
        self._run.note_refusal(facts, result.status if isinstance(result, Refused) else None)
        self._run.count_decided(len(facts))

    def _may_leave(self) -> bool:
        """Whether the session may be at fault: it took other facts before, and these facts have not left a session yet.

        The halves of a refused batch follow it in its session, so their position alone shows little.
        """
        first = self._batch.facts[0]
        return bool(first.position) and not self._run.ended_sessions[first.id]

    def _is_poisonous(self, result: SentBatchResult | None) -> bool:
        """Whether the server keeps ending this batch with an error while it accepts others."""
        finished = isinstance(result, Doubt) and result.finished
        return finished and self._progress.doubts >= MAX_TRIES and self._run.others_succeed(self._progress)

    def _is_hopeless(self) -> bool:
        waited_s = self._run.clock() - self._progress.began
        return self._progress.doubts >= MAX_TRIES or (self._progress.in_flight > 0 and waited_s > IN_FLIGHT_LIMIT_S)

    async def _resend(self) -> SentBatchResult:
        """Send the same bytes again. If the key has expired, the listing has already shown that nothing is stored."""
        run = self._run
        if not is_key_valid(run, self._sent_after, self._sent_by):
            self._sent_after, self._sent_by = run.server_now(), run.principal
            await run.writer.durable(batches.renew_batch, self._batch, self._sent_after, run.principal)
        run.counters.retries += 1
        return await run.send(self._batch, patience=self._patience)

    # -- both ---------------------------------------------------------------------------------------------

    async def _pause(self, seconds: float) -> bool:
        return await self._run.pause(seconds, self._batch.key, "what became of a batch shows with time")

    def _count_written(self, facts: int) -> None:
        self._run.counters.written += facts
        self._run.count_decided(facts)


def _why_in_doubt(result: SentBatchResult | None) -> str:
    match result:
        case None:
            return "an earlier run"
        case WrongSession():
            return "200"
        case InFlight() | OtherBody():
            return "409"
        case Refused(status):
            return str(status)
        case _:
            return code_of(getattr(result, "reason", ""))


def _as_planned(facts: Sequence[IntendedFact]) -> list[PlannedFact]:
    return [
        PlannedFact(fact.id, fact.mem0_id, fact.session.selector, fact.session.run, fact.infer, fact.order_key)
        for fact in facts
    ]
