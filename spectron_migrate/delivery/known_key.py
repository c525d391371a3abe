"""After an adoption: decides a fact whose key of another ledger the server still knows (docs/protocol.md, Adoption).

The server has stored the fact under this key, with other bytes. So its turn is there. Either the turn arrived after the
adoption's search, or it was adopted for another fact with the same text, because nothing distinguishes the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from spectron_migrate.delivery.outcomes import SendOutcome
from spectron_migrate.delivery.passages import folded, query_words
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import KeyRefused, ScopeRefused, Unreachable
from spectron_migrate.ledger import Ledger, adopting
from spectron_migrate.ledger.adopting import FoundTurn
from spectron_migrate.ledger.read import adoption, adoption_steps
from spectron_migrate.ledger.read.adoption import SoughtFact
from spectron_migrate.ledger.sending import IntendedFact
from spectron_migrate.records import same_text
from spectron_migrate.spectron.api import UnknownSession
from spectron_migrate.spectron.rows import Turn

LAG_S = 1.0
"""The pause before the text is looked up again, because a turn that has just arrived may not be found yet."""


async def settle_known_key(run: Run, fact: IntendedFact) -> SendOutcome | None:
    """Give the fact the turn of its key, or a key that the server does not know; None if no turn has its text."""
    if await run.writer.grouped(adoption_steps.last_adopted) is None:
        return None
    sought = await run.writer.grouped(lambda ledger: adoption.read_sought(ledger, [fact.id])[0])
    for at in range(2):
        if at and not await run.pause(LAG_S, fact.key, "a write of another ledger may not be found yet"):
            return SendOutcome.DEFERRED
        try:
            found = await _find_turn(run, fact, sought)
        except KeyRefused as error:
            run.halt("key", error.message)
            return SendOutcome.HELD
        except Unreachable as error:
            run.give_up_on(fact.key, error.message)
            return SendOutcome.DEFERRED
        if found is not None:
            await run.writer.durable(_adopt, found[0], found[1], sought, run.now())
            run.counters.written += 1
            return SendOutcome.DECIDED
    return await run.writer.durable(_exchange_keys, fact.id)


async def _find_turn(run: Run, fact: IntendedFact, sought: SoughtFact) -> tuple[str, Turn] | None:
    """A turn with the fact's text that belongs to no other fact, with the server's id of its session."""
    text = sought.text
    if await run.writer.grouped(_is_shared, sought, text):
        return None  # nothing shows which of several scopes the session is in
    try:
        answer = await query_words(run, fact, text)
    except ScopeRefused:
        return None
    if answer.tier == "cache":
        return None
    hits = [hit for hit in answer.hits if hit.text.strip() and folded(hit.text) in folded(text)]
    for session in dict.fromkeys(hit.session_id for hit in hits if hit.session_id is not None):
        claimed = await run.writer.grouped(_claimed_turns, session)
        if claimed is None:
            continue
        for turn in await _turns(run, session):
            if turn.id not in claimed and _is_of(turn, text, sought.role):
                return session, turn
    return None


async def _turns(run: Run, session: str) -> Sequence[Turn]:
    try:
        return sorted(await run.api.turns(session), key=lambda turn: turn.seq)
    except (UnknownSession, ScopeRefused):
        return []


def _claimed_turns(ledger: Ledger, server_id: str) -> set[str] | None:
    """Turns of a session that belong to facts or residue; None if this ledger itself writes to the session."""
    known = adoption.known_session(ledger, server_id)
    if known is None:
        return set()
    return None if adoption.is_in_use(ledger, known.id) else known.facts.keys() | known.residue


def _is_of(turn: Turn, text: str, role: str) -> bool:
    return same_text(turn.content, text) and turn.role == role


def _is_shared(ledger: Ledger, sought: SoughtFact, text: str) -> bool:
    overlapping = adoption.overlapping_selectors(ledger, sought.selector)
    return bool(overlapping and adoption.selectors_with_text(ledger, overlapping, [text]))


def _adopt(ledger: Ledger, session: str, turn: Turn, sought: SoughtFact, now: str) -> None:
    number = adopting.adopted_session(ledger, sought.selector, sought.run, sought.infer, session, now)
    adopting.adopt(ledger, FoundTurn(sought, number, turn.id, turn.seq, None), by=adoption.BY_KEY)
    adopting.mark_out_of_order(ledger, number)


def _exchange_keys(ledger: Ledger, fact: int) -> SendOutcome | None:
    holder = adoption.holder_of_equal_text(ledger, fact)
    if holder is None:
        return None
    adopting.exchange_keys(ledger, fact, holder)
    return SendOutcome.PLANNED_AGAIN
