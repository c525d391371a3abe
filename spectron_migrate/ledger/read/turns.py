"""Turns and passages that belong to a fact already: a receipt names them, or an earlier send left them behind."""

from __future__ import annotations

from collections.abc import Sequence

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import marks


def claimed_turns(ledger: Ledger, session: int) -> set[str]:
    """Turn ids of the session that have a receipt."""
    rows = ledger.db.execute(
        "SELECT turn_id FROM fact JOIN receipt ON receipt.fact = fact.id"
        " WHERE fact.session = ? AND turn_id IS NOT NULL",
        (session,),
    )
    return {row["turn_id"] for row in rows}


def claimed_passages(ledger: Ledger, chunk_ids: Sequence[str]) -> set[str]:
    """Which of these passages a receipt names."""
    if not chunk_ids:
        return set()
    rows = ledger.db.execute(
        f"SELECT chunk_id FROM receipt WHERE chunk_id IN ({marks(chunk_ids)})",
        tuple(chunk_ids),
    )
    return {row["chunk_id"] for row in rows}


def residue_turns(ledger: Ledger, session: int) -> set[str]:
    """Turn ids of the session that earlier sends of a fact left behind."""
    rows = ledger.db.execute("SELECT turn_id FROM residue WHERE session = ?", (session,))
    return {row["turn_id"] for row in rows}
