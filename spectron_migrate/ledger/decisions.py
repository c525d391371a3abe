"""What a person decides: about facts that nothing else can decide, and to try refused ones once more."""

from __future__ import annotations

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_if_overtaken
from spectron_migrate.ledger.sending import plan_again, stored_by_person

_UNDECIDABLE = (
    "SELECT fact.id, number, session FROM fact JOIN version ON version.id = fact.id WHERE state = 'undecidable'"
    " AND (mem0_id = ? OR mem0_id || '@' || number = ?) ORDER BY number"
)


def resolve(ledger: Ledger, named: str, *, present: bool, now: str) -> str | None:
    """A person decides an undecidable fact; returns why that cannot be. An absent one is planned again.

    `named`: the memory's id, or `ID@VERSION` where several of its texts are undecidable: a word about one of them
    says nothing about the others. Its session is closed: a turn that no receipt claims stands there now, and would
    be taken for the next memory's.
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
    db.execute(
        "INSERT INTO step(kind, subject, detail, who, at) VALUES ('resolve', ?, ?, 'replay --resolve', ?)",
        (named, "present" if present else "absent", now),
    )
    return None


def retry_refused(ledger: Ledger, plan: int) -> int:
    """Plan refused facts of the plan once more, under the same key, in a new session."""
    changed = ledger.db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, session = NULL, position = NULL"
        " WHERE plan = ? AND state = 'refused'",
        (plan,),
    )
    return changed.rowcount
