"""The possible outcomes of a send, and how facts become undecidable."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from spectron_migrate.delivery.marker import BEHIND_HINT
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import WrongLedger
from spectron_migrate.ledger import Ledger, overtaken, sending, sessions
from spectron_migrate.ledger.batches import IntendedBatch
from spectron_migrate.ledger.read import adoption_steps
from spectron_migrate.ledger.sending import IntendedFact

EXCERPT = 160
"""The most characters of a text that a reason shows."""


class SendOutcome(Enum):
    """What became of a fact that was sent."""

    DECIDED = "decided"
    """The ledger has a receipt, a refusal, or the fact is planned again."""
    HELD = "held"
    """Still in doubt after all retries.

    Nothing newer of its lane may be sent, and the next run starts recovery over.
    """
    UNDECIDABLE = "undecidable"
    """The evidence does not decide; a person has to."""
    DEFERRED = "deferred"
    """Still in doubt, with retries left: the next run continues recovery where this one stopped."""
    NEVER_SENT = "never sent"
    SESSION_ENDED = "session ended"
    """The server no longer knows the session and has not stored the fact, which goes on in a new session."""
    PLANNED_AGAIN = "planned again"
    """The fact is planned again under another key, or without extraction, and is the next one to send."""


def code_of(reason: str) -> str:
    """The first word of the reason for a doubt: a status or the kind of an error. The rest may repeat a text."""
    return reason.split()[0].rstrip(":") if reason.strip() else ""


async def give_up(run: Run, facts: Sequence[IntendedFact], reason: str) -> SendOutcome:
    """Mark the facts as undecidable and close their sessions, whose listings are no evidence for later facts."""

    def mark(ledger: Ledger) -> None:
        for fact in facts:
            sending.undecidable(ledger, fact.id, reason)
        for session in {fact.session.id for fact in facts}:
            sessions.close_session(ledger, session)

    await run.writer.durable(mark)
    run.note_decided(facts)
    for fact in facts:
        run.reporter.event("undecidable", id=fact.mem0_id)
    return SendOutcome.UNDECIDABLE


def with_texts(reason: str, sent: str, stored: str) -> str:
    """The reason, with what was sent and what Spectron has instead, around the first character that differs."""
    at = next((at for at, (one, two) in enumerate(zip(sent, stored, strict=False)) if one != two), 0)
    return f"{reason}: sent {_around(sent, at)}, stored {_around(stored, at)}"


def _around(text: str, at: int) -> str:
    begin = max(0, at - EXCERPT // 4)
    part = " ".join(text[begin : begin + EXCERPT].split())
    return f'"{"…" if begin else ""}{part}{"…" if begin + EXCERPT < len(text) else ""}"'


async def is_of_other_ledger(run: Run, intent: IntendedFact | IntendedBatch) -> bool:
    """Whether another ledger must have used the key that the server knows with other bytes.

    After an adoption it is known that there was another ledger; then the fact is refused, as after a send of our own.
    """
    return not intent.was_sent and await run.writer.grouped(adoption_steps.last_adopted) is None


async def is_late(run: Run, fact: IntendedFact) -> bool:
    """Whether a fact that the server lacks would supersede something newer if its bytes were sent again."""
    if fact.infer != "full":
        return False
    return run.everything_is_late or await run.writer.grouped(overtaken.is_late, fact.id)


async def stop_older_ledger(run: Run, facts: Sequence[IntendedFact]) -> SendOutcome:
    """End the run with exit code 2: the server knows keys that this ledger never sent, so another ledger did.

    The facts are planned again; the server stored nothing for these requests.
    """
    await run.writer.durable(sending.back_to_planned, [fact.id for fact in facts])
    run.fail(
        WrongLedger(
            f"Spectron knows the idempotency key of memory {facts[0].mem0_id}, which the ledger at {run.ledger.path}"
            " never sent: another ledger of this migration has written it",
            hint=BEHIND_HINT,
        )
    )
    return SendOutcome.HELD


async def stop_wrong_session(run: Run, facts: Sequence[IntendedFact], session_id: str) -> SendOutcome:
    """Stop the scope, because the server wrote to another session than ours, and facts of the scope may be anywhere."""
    reason = f"Spectron wrote to session {session_id} instead of ours"
    run.stopped_scopes[facts[0].session.selector] = reason
    return await give_up(run, facts, reason)
