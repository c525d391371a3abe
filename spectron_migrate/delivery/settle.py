"""Deciding what is in doubt, from evidence alone.

A session is a serial log: at most one send of it is undecided at a time, so the turns that nobody claims
are a prefix of the facts that were intended, in their order. Count and position decide, identical texts
need no telling apart; the text must agree all the same. What evidence does not decide is never guessed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from math import ceil

from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.waiting import Unanswered
from spectron_migrate.errors import KeyRefused, ScopeRefused, Unreachable
from spectron_migrate.ledger import Ledger, overtaken, sending, sessions
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import counted, parse_time, same_text
from spectron_migrate.spectron.answers import (
    Doubt,
    KeyStopped,
    OtherBody,
    Receipt,
    Refused,
    Running,
    ScopeStopped,
    Verdict,
    WrongSession,
)
from spectron_migrate.spectron.api import Turn, UnknownSession
from spectron_migrate.spectron.wire import InDoubt, NotBegun

KEY_HOLDS = timedelta(hours=20)
"""The server keeps an idempotency key for 24 hours; ours is trusted less long, against wrong clocks."""
RUNNING_PATIENCE_S = 900.0
TRIES = 6
OTHER_TEXTS = "the turns of the session carry other texts than were sent"
LISTINGS = 15
LISTING_EVERY_S = 8.0


class Outcome(Enum):
    """What became of a fact that was sent."""

    DECIDED = "decided"
    HELD = "held"
    """Still in doubt when all patience is over: nothing newer of its lane may pass it, running again begins anew."""
    UNDECIDABLE = "undecidable"
    WAITS = "waits"
    """In doubt, and its patience is not over: the next run goes on with it."""
    NEVER_SENT = "never sent"


async def settle(run: Run, facts: Sequence[IntendedFact]) -> Outcome:
    """Decide intended facts, given in the order of sending: the `full` ones of a lane, or those of one session.

    They were sent one after the other, so those that the server has are a prefix of them. The first that it
    does not have may be under way and goes again; what follows never left and waits for its turn.
    """
    if not all(run.is_due(fact.key) for fact in facts):
        return Outcome.WAITS
    turns = await _evidence(run, facts)
    if isinstance(turns, Outcome):
        return turns
    landed = len(turns)
    if any(fact.id not in turns for fact in facts[:landed]):
        return await give_up(run, facts, "the turns of the lane's sessions contradict the order of sending")
    never_sent = [fact.id for fact in facts[landed + 1 :]]
    if never_sent:
        await run.writer.durable(sending.back_to_planned, never_sent)
    for fact in facts[: landed + 1]:
        candidate = turns.pop(fact.id, None)
        later = {turn.id for turn in turns.values()}
        if candidate is None and await run.writer.grouped(overtaken.is_overtaken, fact.id):
            outcome = await _let_go(run, fact)
        else:
            outcome = await _decide(run, fact, candidate, later=later)
        if outcome is Outcome.WAITS:
            return outcome
        run.waiting.forget(fact.key)
        if outcome is not Outcome.DECIDED:
            return outcome
        run.advance()
    return Outcome.DECIDED


async def _let_go(run: Run, fact: IntendedFact) -> Outcome:
    """A fact that Mem0 has replaced or deleted meanwhile, and that the server does not have.

    Sending it again would decide, and would write what should not be there. So the server gets the time that
    a request of ours may take; if the turn never shows, it never left.
    """
    for _ in range(listings(run)):
        if is_outlasted(run, fact.key):
            break
        if not await run.pause(LISTING_EVERY_S, fact.key, "a write that was cut off may still arrive"):
            return Outcome.WAITS
        seen = await unclaimed(run, fact.session, [fact])
        if isinstance(seen, Outcome):
            return seen
        if seen:
            return await _by_last_look(run, fact, seen[0], later=set())
    await run.writer.durable(sending.back_to_planned, [fact.id])
    return Outcome.DECIDED


def listings(run: Run) -> int:
    """How many looks, `LISTING_EVERY_S` apart, outlast a request of ours that may still be on its way."""
    return max(LISTINGS, ceil(run.api.timeout_s / LISTING_EVERY_S) + 1)


def is_outlasted(run: Run, key: str) -> bool:
    """Whether what was sent under the key has had that time, in this run and those before it."""
    return run.waiting.silent_s(key, run.clock()) >= listings(run) * LISTING_EVERY_S


def text_of(fact: IntendedFact) -> str:
    """The text in the bytes of the intent."""
    return str(json.loads(fact.content)["text"])


async def unclaimed(run: Run, session: SessionRow, facts: Sequence[IntendedFact]) -> list[Turn] | Outcome:
    """Turns of the session that no receipt claims, oldest first; what it comes to where that is no evidence.

    A listing counts as evidence only if it shows every turn that is claimed already.
    """
    assert session.server_id is not None  # noqa: S101 - a fact is intended only in a session that was made
    listing = f"turns of {session.server_id}"
    if not run.is_due(listing):
        return Outcome.WAITS
    try:
        async with asyncio.timeout(run.waiting.reading_s):
            listed = await run.api.turns(session.server_id)
    except ScopeRefused as error:
        run.stopped_scopes[session.selector] = error.message
        return Outcome.HELD
    except KeyRefused as error:
        run.halt("key", error.message)
        return Outcome.HELD
    except UnknownSession as error:
        return await give_up(run, facts, error.message)
    except (Unreachable, TimeoutError) as error:
        run.leave_out(listing, getattr(error, "message", f"no answer to what session {session.server_id} holds"))
        return Outcome.WAITS
    claimed, residue = await run.writer.grouped(
        lambda ledger: (sending.claimed_turns(ledger, session.id), sending.residue_turns(ledger, session.id))
    )
    missing = claimed - {turn.id for turn in listed}
    if missing:
        return await give_up(run, facts, f"the listing of the session lacks {counted(len(missing), 'confirmed turn')}")
    known = claimed | residue
    return sorted((turn for turn in listed if turn.id not in known), key=lambda turn: turn.seq)


async def _evidence(run: Run, facts: Sequence[IntendedFact]) -> dict[int, Turn] | Outcome:
    """The turns that the server has for the facts, by fact; what it comes to where they are no evidence."""
    sessions: dict[int, list[IntendedFact]] = {}
    for fact in facts:
        sessions.setdefault(fact.session.id, []).append(fact)
    turns: dict[int, Turn] = {}
    for members in sessions.values():
        seen = await _evidence_of_session(run, members)
        if isinstance(seen, Outcome):
            return seen
        turns.update({fact.id: turn for fact, turn in zip(members, seen, strict=False)})
    return turns


async def _evidence_of_session(run: Run, facts: Sequence[IntendedFact]) -> list[Turn] | Outcome:
    session = facts[0].session
    seen = await unclaimed(run, session, facts)
    if isinstance(seen, Outcome):
        return seen
    seen = _without_resends(run, seen, facts)
    if len(seen) > len(facts):
        await run.writer.durable(sessions.close_session, session.id)
        foreign = counted(len(seen) - len(facts), "turn")
        return await give_up(run, facts, f"somebody else wrote {foreign} in our session")
    for turn, fact in zip(seen, facts, strict=False):
        # While its key holds, the server itself says which turn is this fact's: `_by_answer` holds it to that.
        if not (_is_sure(turn, fact) or _key_holds(run, fact)):
            return await give_up(run, facts, OTHER_TEXTS)
    return seen


def _without_resends(run: Run, seen: list[Turn], facts: Sequence[IntendedFact]) -> list[Turn]:
    """The turns up to that of a fact whose bytes were sent again: after it nothing else was.

    What stands behind it is what those tries left; it becomes residue once the answer singles out the receipt.
    """
    for at, fact in enumerate(facts[: len(seen)]):
        again = fact.candidate == seen[at].id or run.waiting.was_sent_again(fact.key)
        if again and all(same_text(turn.content, text_of(fact)) for turn in seen[at + 1 :]):
            return seen[: at + 1]
    return seen


async def give_up(run: Run, facts: Sequence[IntendedFact], reason: str) -> Outcome:
    """No evidence decides about them: a person will. Their sessions are no evidence for what would come after."""

    def mark(ledger: Ledger) -> None:
        for fact in facts:
            sending.undecidable(ledger, fact.id, reason)
        for session in {fact.session.id for fact in facts}:
            sessions.close_session(ledger, session)

    await run.writer.durable(mark)
    return Outcome.UNDECIDABLE


async def _decide(run: Run, fact: IntendedFact, candidate: Turn | None, *, later: set[str]) -> Outcome:
    """Send the same bytes again while the key holds; else the listing decides.

    Where only the position singles the candidate out, as after a server that alters texts, the answer under the
    fact's own key has to name it.
    """
    effort = run.effort(fact.key)
    while True:
        if candidate is not None:
            turn = candidate
            await run.writer.durable(sending.note_candidate, fact.id, turn.id)
            if not _key_holds(run, fact):
                return await _by_last_look(run, fact, turn, later=later)
        elif not _key_holds(run, fact):
            now = run.server_now()
            await run.writer.durable(sending.note_attempt, fact.id, sent_after=now, sent_by=run.principal)
        run.counters.retries += 1
        verdict = await _try(run, fact)
        match verdict:
            case Receipt():
                return await _by_answer(run, fact, verdict, candidate, later=later)
            case NotBegun() | Unanswered():
                return Outcome.WAITS
            case KeyStopped() | ScopeStopped():
                return Outcome.HELD
            case WrongSession(session_id):
                return await give_up(run, [fact], f"Spectron wrote to session {session_id} instead of ours")
            case Running(reason):
                effort.waits += 1
                if run.clock() - effort.began > RUNNING_PATIENCE_S:
                    return await _by_last_look(run, fact, candidate, later=later)
            case OtherBody(reason) | Refused(_, reason):
                if candidate is not None:
                    return await _by_last_look(run, fact, candidate, later=later)
                await run.writer.durable(sending.refuse, fact.id, reason)
                return Outcome.DECIDED
            case Doubt(reason, ended):
                effort.tries += 1
                if candidate is not None and ended:
                    return await _by_last_look(run, fact, candidate, later=later)
                if effort.tries >= TRIES and candidate is not None and not _is_sure(candidate, fact):
                    return await give_up(run, [fact], OTHER_TEXTS)
                if effort.tries >= TRIES:
                    return await _poison(run, fact, reason, ended=ended, later=later)
        if not await run.pause(effort.pause_s, fact.key, reason):
            return Outcome.WAITS
        if candidate is None:
            seen = await unclaimed(run, fact.session, [fact])
            if isinstance(seen, Outcome):
                return seen
            fresh = [turn for turn in seen if turn.id not in later]
            candidate = fresh[0] if fresh else None


async def _try(run: Run, fact: IntendedFact) -> Verdict | NotBegun | Unanswered:
    try:
        return await run.send(fact)
    except (NotBegun, Unanswered) as problem:
        return problem
    except InDoubt as problem:
        return Doubt(problem.reason, problem.ended)


async def _by_answer(run: Run, fact: IntendedFact, got: Receipt, candidate: Turn | None, *, later: set[str]) -> Outcome:
    """The turn that the answer names is the receipt; any other that nobody claims is residue."""
    seen = await unclaimed(run, fact.session, [fact])
    if isinstance(seen, Outcome):
        return seen
    fresh = [turn for turn in seen if turn.id not in later]
    if candidate is not None and not _is_sure(candidate, fact) and got.turn_id != candidate.id:
        return await give_up(run, [fact], OTHER_TEXTS)
    if got.turn_id in await run.writer.grouped(sending.claimed_turns, fact.session.id):
        return await give_up(run, [fact], "the answer names a turn that is another memory's already")
    turn_id = got.turn_id or (candidate.id if candidate else None) or (fresh[0].id if len(fresh) == 1 else None)
    if turn_id is None:
        return await give_up(run, [fact], "the answer names no turn and the listing does not single one out")
    left = [turn.id for turn in fresh if turn.id != turn_id]
    seq = next((turn.seq for turn in fresh if turn.id == turn_id), None)
    named = Receipt(turn_id, got.chunk_id, got.ids, got.extracted)
    altered = any(turn.id == turn_id and not _agrees(turn, fact) for turn in fresh)

    def keep(ledger: Ledger) -> None:
        if left:
            sending.note_residue(ledger, fact.id, left)
        sending.receipt(ledger, fact.id, named, decided_by="answer", seq=seq, altered=altered)

    await run.writer.durable(keep)
    run.counters.written += 1
    return Outcome.DECIDED


async def _by_turns(run: Run, fact: IntendedFact, turn: Turn) -> Outcome:
    altered = not _agrees(turn, fact)
    await run.writer.durable(
        sending.stored_by_turns, fact.id, turn.id, turn.seq, full=fact.infer == "full", altered=altered
    )
    run.counters.written += 1
    return Outcome.DECIDED


async def _by_last_look(run: Run, fact: IntendedFact, candidate: Turn | None, *, later: set[str]) -> Outcome:
    """No answer will come: the turn that stands decides, and what the tries left beside it is residue.

    HELD where there is no turn.
    """
    seen = await unclaimed(run, fact.session, [fact])
    if isinstance(seen, Outcome):
        return seen
    fresh = [turn for turn in seen if turn.id not in later]
    chosen = candidate or (fresh[0] if fresh else None)
    if chosen is None:
        return Outcome.HELD
    if not _is_sure(chosen, fact):
        return await give_up(run, [fact], OTHER_TEXTS)
    left = [turn.id for turn in fresh if turn.id != chosen.id]
    if left:
        await run.writer.durable(sending.note_residue, fact.id, left)
    return await _by_turns(run, fact, chosen)


async def _poison(run: Run, fact: IntendedFact, reason: str, *, ended: bool, later: set[str]) -> Outcome:
    """Tries are spent. A fact is given up alone only if the server ended the work and takes others."""
    outcome = await _by_last_look(run, fact, None, later=later)
    if outcome is not Outcome.HELD or run.stop is not None:
        return outcome
    if not ended or not run.others_succeed(run.effort(fact.key)):
        return Outcome.HELD
    await run.writer.durable(sending.refuse, fact.id, reason)
    return Outcome.DECIDED


def _agrees(turn: Turn, fact: IntendedFact) -> bool:
    return same_text(turn.content, text_of(fact))


def _is_sure(turn: Turn, fact: IntendedFact) -> bool:
    """Whether an unclaimed turn can be this fact's alone: by its text, or because nothing else was ever sent there."""
    return _agrees(turn, fact) or fact.position == 0


def _key_holds(run: Run, fact: IntendedFact) -> bool:
    """The server keeps keys by principal: after a change of it the listing of turns decides."""
    return fact.sent_by == run.principal and parse_time(run.server_now()) - parse_time(fact.sent_after) < KEY_HOLDS
