"""What a person decides: the outcome of undecidable facts, and another try for refused ones."""

from __future__ import annotations

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_if_overtaken
from spectron_migrate.ledger.sending import plan_again, stored_by_person

_UNDECIDABLE = (
    "SELECT fact.id, number, session FROM fact JOIN version ON version.id = fact.id WHERE state = 'undecidable'"
    " AND (mem0_id = ? OR mem0_id || '@' || number = ?) ORDER BY number"
)


def resolve(ledger: Ledger, named: str, *, present: bool, now: str) -> str | None:
    """Record the outcome of an undecidable fact; an absent one is planned again. Returns the reason if it cannot be.

    `named`: the memory's id, or `ID@VERSION` if several of its texts are undecidable, because the outcome of one
    says nothing about the others. Its session is closed: it may hold a turn that no receipt claims, which would be
    taken for the next memory's.
    """
    db = ledger.db
    rows = db.execute(_UNDECIDABLE, (named, named)).fetchall()
    if not rows:
        return f"memory {named} is not undecidable"
    if len(rows) > 1:
        each = " or ".join(f"{named}@{row['number']}" for row in rows)
        return f"memory {named} has {len(rows)} undecidable texts: say which, {each}"
    row = rows[0]
    db.execute("UPDATE session SET state = 'closed' WHERE id = ? AND state = 'open'", (row["session"],))
    if present:
        stored_by_person(ledger, row["id"])
    else:
        plan_again(ledger, row["id"])
        skip_if_overtaken(ledger, row["id"])
    keep_decision(ledger, named, "present" if present else "absent", now=now)
    return None


def keep_decision(ledger: Ledger, named: str, answer: str, *, now: str) -> None:
    """Keep what a person said of a memory."""
    ledger.db.execute(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES ('resolve', ?, ?, 'replay --resolve', ?)",
        (named, answer, now),
    )


def retry_refused(ledger: Ledger, plan: int) -> int:
    """Plan the refused facts of the plan again, under the same key, in a new session; returns their number."""
    changed = ledger.db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, session = NULL, position = NULL"
        " WHERE plan = ? AND state = 'refused'",
        (plan,),
    )
    return changed.rowcount
