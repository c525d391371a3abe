"""Decides what becomes of a fact that was sent: the recovery table of docs/protocol.md, row by row.

`decide_first_send` and `_Recovery._by_response` are that table, in its order: the first for the response to the first
send of a fact, the second for the response to a resend. `evidence` reads what the server has stored. If the evidence
does not decide, the fact is undecidable and a person decides; nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spectron_migrate.delivery.deferred import Unanswered
from spectron_migrate.delivery.ended_session import leave_session
from spectron_migrate.delivery.evidence import (
    has_ended,
    has_text_of,
    is_certain,
    is_key_valid,
    left_a_turn,
    other_texts,
    turns_by_fact,
    unclaimed_turns,
)
from spectron_migrate.delivery.key_question import Key, ask_key, may_be_forgotten
from spectron_migrate.delivery.known_key import settle_known_key
from spectron_migrate.delivery.outcomes import (
    SendOutcome,
    code_of,
    give_up,
    is_late,
    is_of_other_ledger,
    stop_older_ledger,
    stop_wrong_session,
)
from spectron_migrate.delivery.passages import Passage, find_passage
from spectron_migrate.delivery.run import FactResult, NotYet, Patience, Run
from spectron_migrate.delivery.waits import IN_FLIGHT_LIMIT_S, MAX_TRIES, late_listings, outlast_s
from spectron_migrate.ledger import Ledger, overtaken, sending, sessions
from spectron_migrate.ledger.read.turns import claimed_turns
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.records import Receipt
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

# -- the first send -----------------------------------------------------------------------------------------


async def decide_first_send(run: Run, fact: IntendedFact, result: FactResult) -> SendOutcome:
    """Act on the response to the first send of a fact, unless it is a receipt that names its turn."""
    match result:
        case Receipt():  # 200 without a `turnId`, or with one that is claimed already: the listing decides
            return await recover(run, [fact], "200")
        case WrongSession(session_id):  # 200, another session
            return await stop_wrong_session(run, [fact], session_id)
        case NotBegun() | RetryLater():  # 429 or 503 with `Retry-After`, no connection, or the run stops
            return SendOutcome.NEVER_SENT
        case Unanswered():
            return SendOutcome.DEFERRED
        case InFlight() | OtherBody():  # 409
            return await recover(run, [fact], "409")
        case Refused(status, reason):  # 400, 404, 410, 413, 422
            if await left_a_turn(run, fact):
                return await recover(run, [fact], str(status))
            if result.may_be_of_session and fact.position:  # the session took other facts before
                return SendOutcome.SESSION_ENDED
            await run.writer.durable(sending.refuse, fact.id, reason)
            run.note_refusal([fact], status)
            run.count_decided()
            return SendOutcome.DECIDED
        case KeyRejected():  # 401
            return SendOutcome.HELD
        case ScopeRejected():  # 403, also if the session is unknown
            if not await has_ended(run, fact):
                return SendOutcome.HELD
            run.stopped_scopes.pop(fact.session.selector, None)
            return SendOutcome.SESSION_ENDED
        case Doubt(reason):  # no response, or any other one
            return await recover(run, [fact], code_of(reason))


# -- facts in doubt -----------------------------------------------------------------------------------------


async def recover(run: Run, facts: Sequence[IntendedFact], why: str = "an earlier run") -> SendOutcome:
    """Decide facts in doubt, in the order of sending: the `full` facts of a lane, or the facts of one session.

    They were sent one after the other, so the server has a prefix of them. The first one that it lacks may be in
    flight, and is sent again. Those after it were never sent, and go back to planned. `why` says, for the log, why they
    are in doubt.
    """
    run.note_doubt(facts, why)
    if not all(run.is_due(fact.key) for fact in facts):
        return SendOutcome.DEFERRED
    turns = await turns_by_fact(run, facts)
    if turns is SendOutcome.SESSION_ENDED:
        return await _recover_around_ended(run, facts)
    if isinstance(turns, SendOutcome):
        return turns
    stored = len(turns)
    if any(fact.id not in turns for fact in facts[:stored]):
        return await give_up(run, facts, "the turns of the lane's sessions contradict the order of sending")
    never_sent = facts[stored + 1 :]
    if never_sent:
        await run.writer.durable(sending.back_to_planned, [fact.id for fact in never_sent])
        run.note_decided(never_sent)
    for fact in facts[: stored + 1]:
        candidate = turns.pop(fact.id, None)
        turns_of_later_facts = {turn.id for turn in turns.values()}
        outcome = await _Recovery(run, fact, candidate, turns_of_later_facts).decide()
        if outcome is SendOutcome.SESSION_ENDED:
            outcome = await leave_session(run, [fact])
        if outcome is SendOutcome.DEFERRED:
            return outcome
        run.deferred.forget(fact.key)
        if outcome not in (SendOutcome.DECIDED, SendOutcome.PLANNED_AGAIN):
            return outcome
        run.note_decided([fact])
        if outcome is SendOutcome.PLANNED_AGAIN:
            return outcome
        run.count_decided()
    return SendOutcome.DECIDED


async def _recover_around_ended(run: Run, facts: Sequence[IntendedFact]) -> SendOutcome:
    """Decide facts, some of which are in a session that has ended: first those before it, then those in it.

    Facts after it were sent only if all before them were decided.
    """
    ended = next(fact.session.id for fact in facts if fact.session.id in run.unlisted_sessions)
    first = next(at for at, fact in enumerate(facts) if fact.session.id == ended)
    run.unlisted_sessions.discard(ended)
    if first:
        outcome = await recover(run, facts[:first])
        if outcome is not SendOutcome.DECIDED:
            return outcome
    of_session = [fact for fact in facts[first:] if fact.session.id == ended]
    outcome = await leave_session(run, of_session)
    others = [fact for fact in facts[first:] if fact.session.id != ended]
    if outcome not in (SendOutcome.DECIDED, SendOutcome.SESSION_ENDED) or not others:
        return outcome
    after = await recover(run, others)
    return outcome if after is SendOutcome.DECIDED else after


def _plan_late(ledger: Ledger, fact: IntendedFact) -> None:
    """Plan a late fact again, without extraction, under the same key: a server that has stored it answers 409."""
    sending.not_stored(ledger, fact.id)
    sessions.close_session(ledger, fact.session.id)


class _Recovery:
    """Decides one fact in doubt.

    `candidate`: the unclaimed turn that is probably this fact's, by its position; None if the listing has none.
    """

    def __init__(self, run: Run, fact: IntendedFact, candidate: Turn | None, turns_of_later_facts: set[str]) -> None:
        self._run = run
        self._fact = fact
        self._candidate = candidate
        self._turns_of_later_facts = turns_of_later_facts
        self._progress = run.progress(fact.key)
        self._patience = Patience(run, fact.key)

    async def decide(self) -> SendOutcome:
        """Send the same bytes again while the server holds their key; otherwise the listing decides."""
        run, fact = self._run, self._fact
        is_overtaken = self._candidate is None and await run.writer.grouped(overtaken.is_overtaken, fact.id)
        supersedes_newer = self._candidate is None and await is_late(run, fact)
        # Spectron keeps keys by principal: under another one, the same bytes would be a second write.
        if self._candidate is None and (is_overtaken or supersedes_newer or fact.sent_by != run.principal):
            outcome = await self._wait_for_late_arrival(outlast_s(run))
            if outcome is not None:
                return outcome
        if self._candidate is None and is_overtaken:
            await run.writer.durable(sending.not_stored, fact.id)
            return SendOutcome.DECIDED
        if self._candidate is None and supersedes_newer:
            await run.writer.durable(_plan_late, fact)
            return SendOutcome.PLANNED_AGAIN
        while True:
            outcome = await self._wait_if_forgotten()
            if outcome is not None:
                return outcome
            result = await self._next_response()
            outcome = result if isinstance(result, SendOutcome) else await self._by_response(result)
            if outcome is not None:
                return outcome
            why = result.reason if isinstance(result, InFlight | Doubt) else ""
            if not await run.pause(self._progress.pause_s, fact.key, why):
                return SendOutcome.DEFERRED
            if self._candidate is None:
                outcome = await self._look_for_candidate()
                if outcome is not None:
                    return outcome

    async def _next_response(self) -> FactResult | SendOutcome:
        """The response to a resend, or to the key question if that is enough; an outcome if neither may be sent.

        With a candidate, the bytes go again only if the server holds their key: otherwise it would store them twice.
        """
        run, fact, candidate = self._run, self._fact, self._candidate
        is_valid = is_key_valid(run, fact.sent_after, fact.sent_by)
        if candidate is not None:
            await run.writer.durable(sending.note_candidate, fact.id, candidate.id)
            # A `none` fact leaves only a turn and a passage, so a resend could only add a second copy.
            if not is_valid or (fact.infer == "none" and is_certain(candidate, fact)):
                return await self._by_listing()
            if not run.deferred.left_in_flight(fact.key, fact.content):
                key = await ask_key(run, fact)
                if not isinstance(key, Key):
                    return key
                if key is not Key.HELD:
                    return await self._by_listing()
        elif not is_valid:
            # The listing shows nothing, so the key counts as valid for another day.
            now = run.server_now()
            await run.writer.durable(sending.note_attempt, fact.id, sent_after=now, sent_by=run.principal)
        run.counters.retries += 1
        return await run.send(fact, patience=self._patience)

    async def _by_response(self, result: FactResult) -> SendOutcome | None:
        """The recovery table for the response to a resend; None to wait and send the same bytes again."""
        run, fact, progress = self._run, self._fact, self._progress
        match result:
            case Receipt():  # 200, our session
                return await self._by_receipt(result)
            case WrongSession(session_id):  # 200, another session
                return await stop_wrong_session(run, [fact], session_id)
            case NotYet():  # not started, so the next listing decides
                return None
            case NotBegun() | RetryLater() | Unanswered():  # not started, or its response may still come
                return SendOutcome.DEFERRED
            case InFlight():  # 409, the first request is still being processed
                progress.in_flight += 1
                in_time = run.clock() - progress.began <= IN_FLIGHT_LIMIT_S
                return None if in_time else await self._by_listing()
            case OtherBody(reason) | Refused(_, reason):  # 409 with another body; 400, 404, 410, 413, 422
                if self._candidate is not None:
                    return await self._by_listing()
                of_session = isinstance(result, Refused) and result.may_be_of_session
                if of_session and (fact.position or await self._is_unlisted()):
                    return SendOutcome.SESSION_ENDED
                if isinstance(result, OtherBody):
                    if await is_of_other_ledger(run, fact):
                        return await stop_older_ledger(run, [fact])
                    outcome = await settle_known_key(run, fact)
                    if outcome is not None:
                        return outcome
                await run.writer.durable(sending.refuse, fact.id, reason)
                run.note_refusal([fact], result.status if isinstance(result, Refused) else 409)
                return SendOutcome.DECIDED
            case ScopeRejected() if await self._is_unlisted():  # 403, because the session is unknown
                run.stopped_scopes.pop(fact.session.selector, None)
                return SendOutcome.SESSION_ENDED
            case KeyRejected() | ScopeRejected():  # 401, 403
                return SendOutcome.HELD
            case Doubt(reason, finished):  # no response, or any other one
                progress.doubts += 1
                return await self._by_doubt(reason, finished=finished)

    async def _by_doubt(self, reason: str, *, finished: bool) -> SendOutcome | None:
        """Still in doubt: a turn on the server decides. Without one, the same bytes are sent again, MAX_TRIES times.

        After that the fact is refused only if it is poisonous: the server answers its requests with an error, and
        accepts others.
        """
        run, fact = self._run, self._fact
        if self._candidate is not None and finished:
            return await self._by_listing()
        if self._progress.doubts < MAX_TRIES:
            return None
        if self._candidate is not None and not is_certain(self._candidate, fact):
            return await give_up(run, [fact], other_texts(self._candidate, fact))
        self._candidate = None
        outcome = await self._by_listing()
        if outcome is not SendOutcome.HELD or run.stop is not None:
            return outcome
        if not finished or not run.others_succeed(self._progress):
            return SendOutcome.HELD
        await run.writer.durable(sending.refuse, fact.id, reason)
        run.note_refusal([fact], None)
        return SendOutcome.DECIDED

    async def _by_receipt(self, receipt: Receipt) -> SendOutcome:
        """Take the turn that the response names as the fact's. Any other turn that no receipt claims is residue.

        If the server changed the text, so that only its position singled the candidate out, then the response to the
        fact's own key must name the candidate.
        """
        run, fact, candidate = self._run, self._fact, self._candidate
        claimed = await run.writer.grouped(claimed_turns, fact.session.id)

        def shows_turn(turns: list[Turn]) -> bool:
            if receipt.turn_id is None:
                return bool(turns)
            return receipt.turn_id in claimed or any(turn.id == receipt.turn_id for turn in turns)

        turns = await self._unclaimed(shows_turn)
        if isinstance(turns, SendOutcome):
            return turns
        if candidate is not None and not is_certain(candidate, fact) and receipt.turn_id != candidate.id:
            return await give_up(run, [fact], other_texts(candidate, fact))
        if receipt.turn_id in claimed:
            return await give_up(run, [fact], "the response names a turn that belongs to another memory")
        only_turn = turns[0].id if len(turns) == 1 else None
        turn_id = receipt.turn_id or (candidate.id if candidate else only_turn)
        if turn_id is None:
            return await give_up(run, [fact], "the response names no turn, and the listing has several or none")
        residue = [turn.id for turn in turns if turn.id != turn_id]
        if residue:
            run.deferred.keys.note_lost()  # the same bytes were stored more than once
        turn = next((turn for turn in turns if turn.id == turn_id), None)
        named = Receipt(turn_id, receipt.chunk_id, receipt.ids, receipt.extracted)

        def keep(ledger: Ledger) -> None:
            if residue:
                sending.note_residue(ledger, fact.id, residue)
            sending.receipt(
                ledger,
                fact.id,
                named,
                decided_by="answer",
                seq=turn.seq if turn else None,
                altered=turn is not None and not has_text_of(turn, fact),
            )

        await run.writer.durable(keep)
        run.counters.written += 1
        return SendOutcome.DECIDED

    async def _by_listing(self) -> SendOutcome:
        """Decide without a response: the turn in the listing is the receipt, and other unclaimed turns are residue.

        HELD if there is no turn.
        """
        run, fact = self._run, self._fact
        turns = await self._unclaimed()
        if isinstance(turns, SendOutcome):
            return turns
        chosen = self._candidate or (turns[0] if turns else None)
        if chosen is None:
            return SendOutcome.HELD
        if not is_certain(chosen, fact):
            return await give_up(run, [fact], other_texts(chosen, fact))
        residue = [turn.id for turn in turns if turn.id != chosen.id]
        if residue:
            await run.writer.durable(sending.note_residue, fact.id, residue)
        passage = await find_passage(run, fact, chosen) if fact.infer == "none" else Passage.UNKNOWN
        if passage is Passage.UNANSWERED:
            return SendOutcome.DEFERRED
        await run.writer.durable(
            sending.stored_by_turns,
            fact.id,
            chosen.id,
            chosen.seq,
            full=fact.infer == "full",
            altered=not has_text_of(chosen, fact),
            chunk_id=passage if isinstance(passage, str) else None,
            without_passage=passage is Passage.ABSENT,
        )
        run.counters.written += 1
        return SendOutcome.DECIDED

    async def _wait_if_forgotten(self) -> SendOutcome | None:
        """If the server may not recognise a resend, wait until the first request has arrived or certainly will not."""
        run, fact = self._run, self._fact
        is_valid = is_key_valid(run, fact.sent_after, fact.sent_by)
        if self._candidate is None and is_valid and await may_be_forgotten(run, fact.key):
            return await self._wait_for_late_arrival(run.api.timeout_s)
        return None

    async def _wait_for_late_arrival(self, seconds: float) -> SendOutcome | None:
        """Wait until the last request can no longer arrive. A turn that appears meanwhile is the candidate.

        For a fact that the server lacks and that must not simply be sent again. Mem0 may have replaced or deleted the
        memory, so that a resend would write what should not be there. An adoption may have found newer facts of the
        lane, so that a resend would stand over them. Or the API key belongs to another principal now, or the server may
        have forgotten keys, so that it would not recognise the resend. Returns an outcome if the wait has to continue
        later.
        """
        run, fact = self._run, self._fact
        for pause_s in late_listings(seconds):
            if self._candidate is not None or run.deferred.unsent_s(fact.key, run.clock()) >= seconds:
                break
            if not await run.pause(pause_s, fact.key, "a write that was cut off may still arrive"):
                return SendOutcome.DEFERRED
            outcome = await self._look_for_candidate()
            if outcome is not None:
                return outcome
        return None

    async def _is_unlisted(self) -> bool:
        """Whether the server does not know the session."""
        return await self._unclaimed() is SendOutcome.SESSION_ENDED

    async def _look_for_candidate(self) -> SendOutcome | None:
        turns = await self._unclaimed()
        if isinstance(turns, SendOutcome):
            return turns
        self._candidate = turns[0] if turns else None
        return None

    async def _unclaimed(self, shows: Callable[[list[Turn]], bool] = lambda turns: True) -> list[Turn] | SendOutcome:
        """Turns of the session that no receipt claims, without those of later facts."""
        turns = await unclaimed_turns(self._run, self._fact.session, [self._fact], shows=shows)
        if isinstance(turns, SendOutcome):
            return turns
        return [turn for turn in turns if turn.id not in self._turns_of_later_facts]
