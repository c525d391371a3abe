"""The evidence about facts in doubt: the listing of turns of their sessions (docs/protocol.md, Recovery).

A session is a serial log: at most one send to it is undecided at a time. So the turns that no receipt claims belong to
a prefix of the intended facts, in their order. Count and position decide, so facts with equal texts need not be told
apart; still, the text of each turn must agree.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import timedelta

from spectron_migrate.delivery.outcomes import SendOutcome, give_up, with_texts
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import KeyRefused, MigrateError, ScopeRefused, Unreachable
from spectron_migrate.ledger import sessions
from spectron_migrate.ledger.read.turns import claimed_turns, residue_turns
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import counted, parse_time, same_text
from spectron_migrate.spectron.api import UnknownSession
from spectron_migrate.spectron.rows import Turn

KEY_LIFETIME = timedelta(hours=20)
"""How long we rely on an idempotency key. The server keeps it for 24 hours; the difference allows for clocks."""
OTHER_TEXTS = "the turns of the session have other texts than were sent"


async def unclaimed_turns(
    run: Run,
    session: SessionRow,
    facts: Sequence[IntendedFact],
    *,
    shows: Callable[[list[Turn]], bool] = lambda turns: True,
) -> list[Turn] | SendOutcome:
    """Turns of the session that no receipt claims, oldest first; an outcome if the listing is no evidence.

    A listing is evidence only if it shows every turn that is already claimed. If it lacks one, or if `shows` is false
    for its unclaimed turns, it may lag, and is requested again for some seconds. If it still lacks a claimed turn, the
    `facts` become undecidable. SESSION_ENDED if the server does not know the session.
    """
    assert session.server_id is not None  # noqa: S101 - a fact is intended only in a session that was made
    listing = f"turns of {session.server_id}"
    if not run.is_due(listing):
        return SendOutcome.DEFERRED
    claimed, residue = await run.writer.grouped(
        lambda ledger: (claimed_turns(ledger, session.id), residue_turns(ledger, session.id))
    )

    def unclaimed(listed: list[Turn]) -> list[Turn]:
        return sorted((turn for turn in listed if turn.id not in claimed | residue), key=lambda turn: turn.seq)

    def is_whole(listed: list[Turn]) -> bool:
        return claimed <= {turn.id for turn in listed} and shows(unclaimed(listed))

    try:
        async with asyncio.timeout(run.deferred.listing_limit_s):
            listed = await run.api.turns(session.server_id, shows=is_whole)
    except ScopeRefused as error:
        run.stopped_scopes[session.selector] = error.message
        return SendOutcome.HELD
    except KeyRefused as error:
        run.halt("key", error.message)
        return SendOutcome.HELD
    except UnknownSession:
        run.unlisted_sessions.add(session.id)
        return SendOutcome.SESSION_ENDED
    except (Unreachable, TimeoutError) as error:
        timed_out = f"no response to the listing of session {session.server_id}"
        run.give_up_on(listing, error.message if isinstance(error, Unreachable) else timed_out)
        return SendOutcome.DEFERRED
    missing = claimed - {turn.id for turn in listed}
    if missing:
        return await give_up(run, facts, f"the listing of the session lacks {counted(len(missing), 'confirmed turn')}")
    return unclaimed(listed)


async def has_ended(run: Run, fact: IntendedFact) -> bool:
    """Whether the server refused a fact because it no longer knows the session.

    False for the first fact of a session: if sessions ended before their first use, one would follow another for ever.
    """
    if fact.position == 0 or fact.session.server_id is None:
        return False
    try:
        await run.api.turns(fact.session.server_id)
    except UnknownSession:
        return True
    except MigrateError:
        return False
    return False


async def left_a_turn(run: Run, fact: IntendedFact) -> bool:
    """Whether a fact is stored although the server refused it."""
    assert fact.session.server_id is not None  # noqa: S101 - a fact is intended only in a session that was made
    session = fact.session.id
    known = await run.writer.grouped(lambda ledger: claimed_turns(ledger, session) | residue_turns(ledger, session))
    try:
        async with asyncio.timeout(run.deferred.listing_limit_s):
            listed = await run.api.turns(fact.session.server_id)
    except (MigrateError, TimeoutError):
        return False
    return any(turn.id not in known and has_text_of(turn, fact) for turn in listed)


async def turns_by_fact(run: Run, facts: Sequence[IntendedFact]) -> dict[int, Turn] | SendOutcome:
    """The turns that the server has for the facts, by fact id; an outcome if the listings are no evidence."""
    by_session: dict[int, list[IntendedFact]] = {}
    for fact in facts:
        by_session.setdefault(fact.session.id, []).append(fact)
    turns: dict[int, Turn] = {}
    for members in by_session.values():
        found = await _turns_in_order(run, members)
        if isinstance(found, SendOutcome):
            return found
        turns.update({fact.id: turn for fact, turn in zip(members, found, strict=False)})
    return turns


async def _turns_in_order(run: Run, facts: Sequence[IntendedFact]) -> list[Turn] | SendOutcome:
    """The turns that the server has for facts of one session: the n-th turn is the n-th fact's."""
    session = facts[0].session
    turns = await unclaimed_turns(run, session, facts)
    if isinstance(turns, SendOutcome):
        return turns
    turns = _without_resends(run, turns, facts)
    if len(turns) > len(facts):
        await run.writer.durable(sessions.close_session, session.id)
        foreign = counted(len(turns) - len(facts), "turn")
        # It is not known which of them is foreign, so name a turn that has the text of no fact, or else the last one.
        sent = {text_of(fact) for fact in facts}
        other = next((turn for turn in turns if turn.content not in sent), turns[-1])
        reason = with_texts(f"somebody else wrote {foreign} to our session", text_of(facts[0]), other.content)
        return await give_up(run, facts, reason)
    for turn, fact in zip(turns, facts, strict=False):
        # While the key is valid, the server itself will tell which turn is this fact's; see `_by_receipt`.
        if not (is_certain(turn, fact) or is_key_valid(run, fact.sent_after, fact.sent_by)):
            return await give_up(run, facts, other_texts(turn, fact))
    return turns


def _without_resends(run: Run, turns: list[Turn], facts: Sequence[IntendedFact]) -> list[Turn]:
    """The turns without the copies that resends of one fact left.

    Nothing else was sent after the fact that was resent, so later turns with its text are from the same bytes. They
    become residue once the response names the receipt.
    """
    for at, fact in enumerate(facts[: len(turns)]):
        resent = fact.candidate == turns[at].id or run.deferred.was_resent(fact.key)
        if resent and all(has_text_of(turn, fact) for turn in turns[at + 1 :]):
            return turns[: at + 1]
    return turns


def text_of(fact: IntendedFact) -> str:
    """The text in the bytes of the intent."""
    return str(json.loads(fact.content)["text"])


def other_texts(turn: Turn, fact: IntendedFact) -> str:
    """Why a fact whose turn has another text is undecidable."""
    return with_texts(OTHER_TEXTS, text_of(fact), turn.content)


def has_text_of(turn: Turn, fact: IntendedFact) -> bool:
    return same_text(turn.content, text_of(fact))


def is_certain(turn: Turn, fact: IntendedFact) -> bool:
    """Whether an unclaimed turn can only be this fact's: it has the text, or nothing else was sent to the session.

    If the server answers `POST /sessions` with an older session, that session shows what others sent before.
    """
    return has_text_of(turn, fact) or (fact.position == 0 and not turn.is_from_before(fact.sent_after))


def is_key_valid(run: Run, sent_after: str, sent_by: str) -> bool:
    """Whether the server still knows the idempotency key of a request. It keeps keys by principal."""
    return sent_by == run.principal and parse_time(run.server_now()) - parse_time(sent_after) < KEY_LIFETIME
