"""Facts that should no longer be sent as they were planned. Call every function here inside a transaction.

Either Mem0 has a newer text or has deleted the memory, or an adoption found newer facts of the lane on the server.
"""

from __future__ import annotations

from spectron_migrate.ledger import messages
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import FACTS, IS_CURRENT, STORED, marks


def why_overtaken(ledger: Ledger, fact: int) -> str | None:
    """Why a fact should not be sent: a newer version, a tombstone, or an overtaken text in a message; else None."""
    row = ledger.db.execute(
        f"SELECT newest_version > number AS replaced, newest_version, is_message, {IS_CURRENT} AS is_current"
        f" FROM {FACTS} WHERE fact.id = ?",
        (fact,),
    ).fetchone()
    if row["is_current"]:
        return messages.APART if row["is_message"] and messages.is_torn(ledger.db, fact) else None
    return f"replaced by version {row['newest_version']}" if row["replaced"] else messages.DELETED


def is_overtaken(ledger: Ledger, fact: int) -> bool:
    """Whether an intended fact should no longer be sent."""
    return why_overtaken(ledger, fact) is not None


def skip_if_overtaken(ledger: Ledger, fact: int) -> bool:
    """Skip a planned fact if it should no longer be sent.

    Memories of a message that Mem0 still has are planned one by one.
    """
    reason = why_overtaken(ledger, fact)
    if reason is not None:
        messages.skip(ledger.db, fact, reason)
    return reason is not None


_IS_LATE = (
    "infer = 'full' AND EXISTS (SELECT 1 FROM fact AS newer WHERE newer.lane = fact.lane AND newer.infer = 'full'"
    f" AND newer.was_sent = 1 AND newer.order_key > fact.order_key AND newer.state IN ({marks(STORED)}))"
)


def is_late(ledger: Ledger, fact: int) -> bool:
    """Whether a fact would be extracted after newer stored facts of its lane.

    A lane is sent in order, so only an adoption leaves a fact in doubt below newer ones.
    """
    row = ledger.db.execute(f"SELECT {_IS_LATE} AS is_late FROM fact WHERE id = ?", (*STORED, fact)).fetchone()
    return bool(row["is_late"])


def mark_if_late(ledger: Ledger, fact: int) -> None:
    """Mark a fact that is planned again as late, if it is, as `plan.mark_late` does before a run."""
    ledger.db.execute(f"UPDATE fact SET infer = 'none', late = 1 WHERE id = ? AND {_IS_LATE}", (fact, *STORED))
