"""The newest write that Spectron has answered. Spectron should still hold its key."""

from __future__ import annotations

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import FACTS
from spectron_migrate.ledger.sending import IntendedFact, body_of
from spectron_migrate.ledger.sessions import known_session
from spectron_migrate.records import canonical_json


def newest_answered(ledger: Ledger, since: str) -> tuple[IntendedFact, str] | None:
    """The last answered write of a single fact in the newest sessions opened after `since`, and its turn.

    The ledger does not keep the bytes of a decided write, so they are rebuilt from the fact.
    """
    row = ledger.db.execute(
        f"SELECT fact.id, version.mem0_id, fact.session, position, key, infer, order_key, turn_id, role, category,"
        f" labels, version.text, text_at, selector.text AS selector FROM {FACTS}"
        " JOIN selector ON selector.no = fact.selector JOIN receipt ON receipt.fact = fact.id"
        " WHERE fact.session IN (SELECT id FROM session WHERE server_id IS NOT NULL AND created_at > ?"
        "  ORDER BY id DESC LIMIT 16)"
        " AND state IN ('written', 'stored_not_extracted') AND decided_by = 'answer' AND chunk_id IS NOT NULL"
        " AND turn_id IS NOT NULL ORDER BY fact.session DESC, position DESC LIMIT 1",
        (since,),
    ).fetchone()
    if row is None:
        return None
    session = known_session(ledger, row["session"])
    content = canonical_json({**body_of(row), "session_id": session.server_id}).encode()
    fact = IntendedFact(
        row["id"],
        row["mem0_id"],
        session,
        row["position"],
        content,
        row["key"],
        row["infer"],
        since,
        0,
        None,
        row["order_key"],
        "",
    )
    return fact, row["turn_id"]
