"""Reading and bending a ledger's tables in tests."""

from __future__ import annotations

from typing import Any

from spectron_migrate.ledger import Ledger

OF_MEMORY = "id IN (SELECT id FROM version WHERE mem0_id = ?)"
"""Which facts are of one memory."""

_FACTS = (
    "SELECT fact.*, lane.name AS lane, selector.text AS selector, version.mem0_id, version.number AS version,"
    " version.text, version.text_at, turn_id, seq, chunk_id, decided_by, altered, candidate, attempts, sent_after,"
    " request.key AS sent_key, request.body AS sent_body, session.server_id, tombstoned_at, is_message,"
    " whole.mem0_id AS message FROM fact JOIN version ON version.id = fact.id"
    " LEFT JOIN memory ON memory.mem0_id = version.mem0_id LEFT JOIN session ON session.id = fact.session"
    " LEFT JOIN lane ON lane.no = fact.lane LEFT JOIN selector ON selector.no = fact.selector"
    " LEFT JOIN receipt ON receipt.fact = fact.id LEFT JOIN request ON request.id = coalesce(fact.batch, fact.id)"
    " LEFT JOIN version AS whole ON whole.id = fact.message"
)


def facts_of(ledger: Ledger, where: str = "1 = 1", *values: str) -> list[dict[str, Any]]:
    """Facts of the ledger with all that the ledger knows of them."""
    rows = ledger.db.execute(f"{_FACTS} WHERE {where} ORDER BY fact.id", values).fetchall()
    facts = [dict(zip(row.keys(), row, strict=True)) for row in rows]  # a name that comes twice: the later one
    residue: dict[int, list[str]] = {}
    for row in ledger.db.execute("SELECT fact, turn_id FROM residue ORDER BY turn_id"):
        residue.setdefault(row["fact"], []).append(row["turn_id"])
    return [{**fact, "residue": residue.get(fact["id"], [])} for fact in facts]
