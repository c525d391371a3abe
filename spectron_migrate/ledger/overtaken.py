"""What is planned, or on its way, and should no longer be sent. Call inside a transaction."""

from __future__ import annotations

from sqlite3 import Row

from spectron_migrate.ledger import messages
from spectron_migrate.ledger.ledger import Ledger


def overtaken(ledger: Ledger, mem0_id: str, version: int) -> str | None:
    """Why a fact should no longer be sent: a newer version, a tombstone, a torn message; None where it should."""
    newest = ledger.db.execute("SELECT max(version) FROM fact WHERE mem0_id = ?", (mem0_id,)).fetchone()[0]
    if newest > version:
        return f"replaced by version {newest}"
    row = ledger.db.execute("SELECT tombstoned_at FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    if row is not None and row["tombstoned_at"] is not None:
        return messages.DELETED
    return messages.APART if messages.is_torn(ledger.db, mem0_id) else None


def is_overtaken(ledger: Ledger, fact: int) -> bool:
    """Whether an intended fact should no longer be sent."""
    row = ledger.db.execute("SELECT mem0_id, version FROM fact WHERE id = ?", (fact,)).fetchone()
    return overtaken(ledger, row["mem0_id"], row["version"]) is not None


def skip_overtaken(ledger: Ledger, row: Row) -> None:
    """Skip a planned fact that should no longer be sent; of a message, what is left is planned itself."""
    reason = overtaken(ledger, row["mem0_id"], row["version"])
    if reason is not None:
        messages.skip(ledger.db, row, reason)
