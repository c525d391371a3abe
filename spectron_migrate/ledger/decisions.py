"""Records what a person decides: the outcome of undecidable facts, and another try for refused ones."""

from __future__ import annotations

from collections.abc import Mapping

from spectron_migrate.errors import InputError
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_if_overtaken
from spectron_migrate.ledger.sending import WITHOUT_PASSAGE, note_residue, plan_again, stored_by_person
from spectron_migrate.records import digest

_OPEN = (
    "SELECT fact.id, number, session, state FROM fact JOIN version ON version.id = fact.id"
    f" WHERE (state = 'undecidable' OR (state = 'stored_not_extracted' AND reason = '{WITHOUT_PASSAGE}'))"
    " AND (mem0_id = ? OR mem0_id || '@' || number = ?) ORDER BY number"
)


def resolve(ledger: Ledger, named: str, *, present: bool, now: str) -> str | None:
    """Record the outcome of an undecidable fact; an absent one is planned again. Returns the reason if it cannot be.

    The same for a fact that is stored without passage. Present: its text was found after all. Absent: it is written
    again, because no search finds it. `named`: the memory's id, or `ID@VERSION` if several of its texts are
    undecidable, because the outcome of one says nothing about the others. The fact's session is closed, because it may
    hold a turn that no receipt claims, which would be taken for the next memory's.
    """
    db = ledger.db
    rows = db.execute(_OPEN, (named, named)).fetchall()
    if not rows:
        return f"memory {named} is not undecidable"
    if len(rows) > 1:
        each = " or ".join(f"{named}@{row['number']}" for row in rows)
        return f"memory {named} has {len(rows)} undecidable texts: say which, {each}"
    row = rows[0]
    db.execute("UPDATE session SET state = 'closed' WHERE id = ? AND state = 'open'", (row["session"],))
    if row["state"] != "undecidable":
        _resolve_without_passage(ledger, row["id"], present=present)
    elif present:
        stored_by_person(ledger, row["id"])
    else:
        plan_again(ledger, row["id"], was_sent=True)
        skip_if_overtaken(ledger, row["id"])
    keep_decision(ledger, named, "present" if present else "absent", now=now)
    return None


def _resolve_without_passage(ledger: Ledger, fact: int, *, present: bool) -> None:
    """The turn of the fact is there. To be written again, the fact gets another key, and this turn becomes residue."""
    db = ledger.db
    if present:
        db.execute("UPDATE fact SET state = 'written', reason = NULL WHERE id = ?", (fact,))
        return
    row = db.execute(
        "SELECT key, turn_id FROM fact JOIN receipt ON receipt.fact = fact.id WHERE id = ?", (fact,)
    ).fetchone()
    if row["turn_id"]:
        note_residue(ledger, fact, [row["turn_id"]])
    db.execute("DELETE FROM receipt WHERE fact = ?", (fact,))
    db.execute("UPDATE fact SET key = ? WHERE id = ?", (digest("again", row["key"]), fact))
    plan_again(ledger, fact)
    skip_if_overtaken(ledger, fact)


def resolve_all(ledger: Ledger, answers: Mapping[str, str], *, now: str) -> None:
    """Record a person's decisions; raises InputError naming every memory that is not undecidable."""
    with ledger.transaction():
        wrong = [
            why
            for named, answer in answers.items()
            if (why := resolve(ledger, named, present=answer == "present", now=now))
        ]
        if wrong:
            raise InputError.of_all(wrong, hint="spectron-migrate status lists the undecidable memories")


def keep_decision(ledger: Ledger, named: str, answer: str, *, now: str) -> None:
    """Record what a person decided about a memory."""
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
