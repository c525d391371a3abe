"""Decides writes in a session that the server no longer knows, so that no listing shows what became of them.

The server itself shows that. If it holds the key, it repeats its first answer to the same bytes. If not, it refuses
them, because the session is unknown. Facts that it has not stored are sent in a new session.
"""

from __future__ import annotations

from collections.abc import Sequence

from spectron_migrate.delivery.deferred import Unanswered
from spectron_migrate.delivery.evidence import is_key_valid
from spectron_migrate.delivery.key_question import Key, ask_key
from spectron_migrate.delivery.outcomes import SendOutcome, give_up, stop_wrong_session
from spectron_migrate.delivery.run import FactResult, NotYet, Patience, Run, SentBatchResult
from spectron_migrate.delivery.waits import IN_FLIGHT_LIMIT_S, MAX_TRIES, late_listings
from spectron_migrate.ledger import Ledger, batches, sending, sessions
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.read.turns import claimed_turns
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.records import BatchReceipt, Receipt
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
from spectron_migrate.spectron.wire import NotBegun

MOST_SESSIONS = 3
"""How many sessions of one fact may end before this run stops trying."""


async def leave_session(run: Run, facts: Sequence[IntendedFact]) -> SendOutcome:
    """Decide facts of a session that has ended, in the order of sending.

    SESSION_ENDED if some are planned again, for a new session.
    """
    for at, fact in enumerate(facts):
        stored = await _stored_answer(run, fact, [fact])
        if isinstance(stored, SendOutcome):
            return stored
        if stored is None:
            return await _go_on_in_new_session(run, facts[at:])
        assert isinstance(stored, Receipt)  # noqa: S101 - the answer to one fact
        if not await _keep(run, fact, stored):
            return await give_up(run, [fact], "the response names a turn that belongs to another memory")
    await run.writer.durable(sessions.close_session, facts[0].session.id)
    run.note_decided(facts)
    return SendOutcome.DECIDED


async def leave_session_of_batch(run: Run, batch: IntendedBatch) -> SendOutcome:
    """The same for a batch."""
    stored = await _stored_answer(run, batch, batch.facts)
    if isinstance(stored, SendOutcome):
        return stored
    if stored is None:
        return await _go_on_in_new_session(run, batch.facts)
    assert isinstance(stored, BatchReceipt)  # noqa: S101 - the answer to a batch
    await run.writer.durable(batches.receipt_batch, batch, stored)
    run.counters.written += len(batch.facts)
    run.count_decided(len(batch.facts))
    await run.writer.durable(sessions.close_session, batch.session.id)
    return SendOutcome.DECIDED


async def _stored_answer(
    run: Run, intent: IntendedFact | IntendedBatch, facts: Sequence[IntendedFact]
) -> Receipt | BatchReceipt | SendOutcome | None:
    """The server's answer to a write that it has stored; None if it has not stored it."""
    timeout_s = run.api.timeout_s
    for pause_s in late_listings(timeout_s):
        if run.deferred.unsent_s(intent.key, run.clock()) >= timeout_s:
            break
        if not await run.pause(pause_s, intent.key, "a write that was cut off may still arrive"):
            return SendOutcome.DEFERRED
    if not is_key_valid(run, intent.sent_after, intent.sent_by):
        return None
    patience, progress = Patience(run, intent.key), run.progress(intent.key)
    while True:
        result = await _ask(run, intent, patience)
        match result:
            case None | Receipt() | BatchReceipt():
                return result
            case Refused() | ScopeRejected() | OtherBody():
                run.stopped_scopes.pop(intent.session.selector, None)
                return None
            case WrongSession(session_id):
                return await stop_wrong_session(run, facts, session_id)
            case KeyRejected():
                return SendOutcome.HELD
            case InFlight():
                progress.in_flight += 1
            case Doubt():
                progress.doubts += 1
            case NotYet():
                continue
            case NotBegun() | RetryLater() | Unanswered():
                return SendOutcome.DEFERRED
        if progress.doubts >= MAX_TRIES or run.clock() - progress.began > IN_FLIGHT_LIMIT_S:
            return await give_up(run, facts, f"Spectron does not list session {intent.session.server_id}")
        if not await run.pause(progress.pause_s, intent.key, result.reason):
            return SendOutcome.DEFERRED


async def _ask(
    run: Run, intent: IntendedFact | IntendedBatch, patience: Patience
) -> FactResult | SentBatchResult | None:
    """The response to the same bytes; None if the server no longer holds their key and would store them again."""
    if isinstance(intent, IntendedBatch):
        return await run.send(intent, patience=patience)
    key = await ask_key(run, intent)
    if key is Key.FORGOTTEN:
        return None
    if not isinstance(key, Key) and not (isinstance(key, Doubt) and key.finished):
        return key
    return await run.send(intent, patience=patience)


async def _keep(run: Run, fact: IntendedFact, got: Receipt) -> bool:
    """Record the receipt; False if its turn belongs to another fact."""

    def keep(ledger: Ledger) -> bool:
        if got.turn_id in claimed_turns(ledger, fact.session.id):
            return False
        sending.receipt(ledger, fact.id, got, decided_by="answer")
        return True

    if not await run.writer.durable(keep):
        return False
    run.deferred.forget(fact.key)
    run.counters.written += 1
    run.count_decided()
    return True


async def _go_on_in_new_session(run: Run, facts: Sequence[IntendedFact]) -> SendOutcome:
    first = facts[0].id
    run.ended_sessions[first] += 1
    await run.writer.durable(sessions.close_session, facts[0].session.id)
    if run.ended_sessions[first] > MOST_SESSIONS:
        return SendOutcome.HELD

    def plan_again(ledger: Ledger) -> None:
        for fact in facts:
            sending.not_stored(ledger, fact.id)

    await run.writer.durable(plan_again)
    run.note_decided(facts)
    for fact in facts:
        run.deferred.forget(fact.key)
    return SendOutcome.SESSION_ENDED
