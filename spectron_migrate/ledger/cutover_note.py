"""What a ledger knows of the cutover: whether one began, and whether it was completed.

The journal decides how far a cutover is (`state/journal.py`). If only the ledger was restored, the journal is missing.
Then only this note distinguishes the state from one in which no cutover ever began.
"""

from __future__ import annotations

from typing import Literal

from spectron_migrate.errors import NotLegal
from spectron_migrate.ledger.ledger import Ledger

CutoverNote = Literal["began", "complete"]
_KIND = "cutover"


def note_cutover(ledger: Ledger, what: CutoverNote, now: str) -> None:
    """Note durably how far the cutover is. `complete` is noted before the journal records it."""
    if cutover_note(ledger) in (what, "complete"):
        return
    with ledger.transaction():
        ledger.db.execute(
            "INSERT INTO step(kind, subject, detail, who, at) VALUES (?, ?, '', 'cutover', ?)", (_KIND, what, now)
        )


def cutover_note(ledger: Ledger) -> CutoverNote | None:
    """The latest stage that is noted; None if no cutover began, as far as the ledger knows."""
    noted = {row["subject"] for row in ledger.db.execute("SELECT subject FROM step WHERE kind = ?", (_KIND,))}
    return "complete" if "complete" in noted else ("began" if noted else None)


def completion_noted_at(ledger: Ledger) -> str | None:
    """When a completion was noted; None if none was."""
    row = ledger.db.execute("SELECT at FROM step WHERE kind = ? AND subject = 'complete'", (_KIND,)).fetchone()
    return str(row["at"]) if row is not None else None


def refuse_lost_journal(ledger: Ledger, *, ever_began: bool, after: CutoverNote) -> None:
    """Raise NotLegal if the journal knows of no cutover, but the ledger notes one that got as far as `after`."""
    noted = cutover_note(ledger)
    if not ever_began and noted is not None and (after == "began" or noted == "complete"):
        raise NotLegal(
            f"{describe_lost_journal(noted)}: nothing was changed",
            hint="restore cutover.jsonl beside the ledger, from the state that it was backed up from",
        )


def describe_lost_journal(noted: CutoverNote, *, is_older: bool = False) -> str:
    """What is wrong, for messages. `is_older`: there is a journal, of before that."""
    what = "a cutover was completed" if noted == "complete" else "a cutover began"
    return f"the ledger says that {what}, and its journal, cutover.jsonl, is {'older' if is_older else 'missing'}"
