"""Everything that the ledger knows about one memory, and about the memories of one owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import CARRIER, FACTS
from spectron_migrate.records import Selector, canonical_json, selector_of


@dataclass(frozen=True, slots=True)
class LedgerMemory:
    """What the ledger knows of a memory besides its record."""

    mem0_state: str
    expires: str | None
    moved_from: str | None
    tombstoned_at: str | None


@dataclass(frozen=True, slots=True)
class VersionStory:
    """One text of a memory, how it was sent, and the evidence for its state."""

    number: int
    text: str | None
    text_at: str | None
    recorded_at: str
    state: str
    reason: str | None
    late: bool
    infer: str
    labels: tuple[str, ...]
    selector: Selector
    message: str | None
    """The message whose turn contains the text. State and receipt are then those of the message."""
    session: str | None
    """The server's session."""
    turn: str | None
    chunk: str | None
    decided_by: str | None
    altered: bool
    attempts: int | None
    """While it is in doubt: how often its bytes were sent."""
    candidate: str | None
    """While it is in doubt: a turn that may be that of this text."""
    residue: int
    made: tuple[str, ...]
    """Entities and attributes of its extraction."""


def memory_row(ledger: Ledger, mem0_id: str) -> LedgerMemory | None:
    """The memory's row; None if the ledger does not know the memory."""
    row = ledger.db.execute(
        "SELECT mem0_state, expires, moved_from, tombstoned_at FROM memory WHERE mem0_id = ?", (mem0_id,)
    ).fetchone()
    return LedgerMemory(**dict(row)) if row else None


def versions_of(ledger: Ledger, mem0_id: str) -> list[VersionStory]:
    """Every text of a memory, the oldest first."""
    rows = ledger.db.execute(
        "SELECT version.number, version.text, version.text_at, version.recorded_at, carrier.id AS carrier,"
        " carrier.state, coalesce(carrier.reason, fact.reason) AS reason, carrier.late, carrier.infer, carrier.labels,"
        " coalesce(selector.text, '[]') AS selector, whole.mem0_id AS message, session.server_id, turn_id, chunk_id,"
        " decided_by, coalesce(altered, 0) AS altered, attempts, candidate,"
        " (SELECT count(*) FROM residue WHERE residue.fact = carrier.id) AS residue"
        f" FROM {FACTS} JOIN {CARRIER} LEFT JOIN selector ON selector.no = carrier.selector"
        " LEFT JOIN version AS whole ON whole.id = fact.message LEFT JOIN receipt ON receipt.fact = carrier.id"
        " LEFT JOIN session ON session.id = coalesce(receipt.session, carrier.session)"
        " LEFT JOIN request ON request.id = coalesce(carrier.batch, carrier.id)"
        " WHERE memory.mem0_id = ? ORDER BY version.number",
        (mem0_id,),
    ).fetchall()
    return [
        VersionStory(
            number=row["number"],
            text=row["text"],
            text_at=row["text_at"],
            recorded_at=row["recorded_at"],
            state=row["state"],
            reason=row["reason"],
            late=bool(row["late"]),
            infer=row["infer"],
            labels=tuple(json.loads(row["labels"])) if row["labels"] else (),
            selector=selector_of(row["selector"]),
            message=row["message"],
            session=row["server_id"],
            turn=row["turn_id"],
            chunk=row["chunk_id"],
            decided_by=row["decided_by"],
            altered=bool(row["altered"]),
            attempts=row["attempts"],
            candidate=row["candidate"],
            residue=row["residue"],
            made=tuple(
                each["id"]
                for each in ledger.db.execute("SELECT id FROM extracted WHERE fact = ? ORDER BY id", (row["carrier"],))
            ),
        )
        for row in rows
    ]


def memories_of_user(ledger: Ledger, user: str) -> Iterator[str]:
    """The ids of a user's memories. Reads every record, so call it rarely."""
    named = f'"user_id":{canonical_json(user)}'
    rows = ledger.db.execute(
        "SELECT mem0_id FROM memory WHERE replace(record, ?, '') != record ORDER BY mem0_id", (named,)
    )
    return (row["mem0_id"] for row in rows)
