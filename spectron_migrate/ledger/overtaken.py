"""Facts that should no longer be sent: Mem0 has a newer text, or has deleted the memory. Call inside a transaction."""

from __future__ import annotations

from spectron_migrate.ledger import messages
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import FACTS, IS_CURRENT


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
