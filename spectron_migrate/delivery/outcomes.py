"""What a send can come to, and how facts become undecidable."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from spectron_migrate.delivery.run import Run
from spectron_migrate.ledger import Ledger, sending, sessions
from spectron_migrate.ledger.sending import IntendedFact

EXCERPT = 160
"""Letters of a text that a reason shows at most."""


class SendOutcome(Enum):
    """What became of a fact that was sent."""

    DECIDED = "decided"
    """The ledger has a receipt, a refusal, or the fact is planned again."""
    HELD = "held"
    """Still in doubt after all retries: nothing newer of its lane may be sent; the next run begins recovery anew."""
    UNDECIDABLE = "undecidable"
    """The evidence does not decide; a person has to."""
    DEFERRED = "deferred"
    """Still in doubt, with retries left: the next run continues recovery where this one stopped."""
    NEVER_SENT = "never sent"
    SESSION_ENDED = "session ended"
    """The server no longer knows the session and has not stored the fact: it goes on in a new one."""


async def give_up(run: Run, facts: Sequence[IntendedFact], reason: str) -> SendOutcome:
    """Mark the facts as undecidable and close their sessions, whose listings are no evidence for later facts."""

    def mark(ledger: Ledger) -> None:
        for fact in facts:
            sending.undecidable(ledger, fact.id, reason)
        for session in {fact.session.id for fact in facts}:
            sessions.close_session(ledger, session)

    await run.writer.durable(mark)
    return SendOutcome.UNDECIDABLE


def with_texts(reason: str, sent: str, stored: str) -> str:
    """The reason with what was sent and what Spectron has in its place, around the first letter that differs."""
    at = next((at for at, (one, two) in enumerate(zip(sent, stored, strict=False)) if one != two), 0)
    return f"{reason}: sent {_around(sent, at)}, stored {_around(stored, at)}"


def _around(text: str, at: int) -> str:
    begin = max(0, at - EXCERPT // 4)
    part = " ".join(text[begin : begin + EXCERPT].split())
    return f'"{"…" if begin else ""}{part}{"…" if begin + EXCERPT < len(text) else ""}"'


async def stop_wrong_session(run: Run, facts: Sequence[IntendedFact], session_id: str) -> SendOutcome:
    """The server wrote to another session than ours: stop the scope; its facts may be anywhere."""
    reason = f"Spectron wrote to session {session_id} instead of ours"
    run.stopped_scopes[facts[0].session.selector] = reason
    return await give_up(run, facts, reason)
