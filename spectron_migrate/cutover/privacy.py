"""The privacy report: texts that Mem0 has deleted or replaced and Spectron still holds, and how to erase them.

Spectron cannot delete by id. A scope that holds nothing else of the migration can be erased exactly. `/forget` deletes
by meaning, over everything that a key reaches. So the report names it, and nothing here calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover as ledger_reads
from spectron_migrate.ledger.read.cutover import StaleText
from spectron_migrate.records import Json, selector_of
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore, store_at, write_object

FILE = "privacy.json"
REPLACED = "replaced by a newer text"


@dataclass(frozen=True, slots=True)
class PrivacySummary:
    """Counts of the texts in the report; the file names each by id and scope, without its text."""

    deleted: int
    """Texts of memories that Mem0 has deleted or no longer shows."""
    replaced: int
    """Older texts of memories that Mem0 has changed."""
    exact: int
    """Texts of both kinds in scopes that hold nothing else of the migration. Erasing the scope erases exactly these."""
    path: str

    def to_json(self) -> dict[str, Json]:
        """For the command's JSON."""
        return {"deleted": self.deleted, "replaced": self.replaced, "exact": self.exact, "path": self.path}


def write_privacy_report(store: Path | StateStore, *, now: str) -> PrivacySummary | None:
    """Write `privacy.json` into the state; None before the first replay."""
    try:
        with Ledger.open_for_reading(store) as ledger:
            return _write(store, ledger, now)
    except InputError:
        return None


def renew_privacy_report(store: Path | StateStore, *, now: str) -> None:
    """Write `privacy.json` again, if a cutover has begun."""
    if read_journal(store).state.ever_began:
        write_privacy_report(store, now=now)


def _write(store: Path | StateStore, ledger: Ledger, now: str) -> PrivacySummary:
    living = [path for text in ledger_reads.living_selectors(ledger) for path in _paths(text)]
    rows = [_row(text, living) for text in ledger_reads.stale_texts(ledger)]
    report = {
        "schema": 1,
        "at": now,
        "explains": "Deleted or replaced in Mem0, still in Spectron. `exact` is true if no memory that Mem0 still has"
        " lies in or below the same scopes: erasing them (POST /scopes/forget) then erases nothing else of this"
        " migration, but it does erase what others wrote there. If it is false, Spectron offers no way to erase only"
        " this memory: /forget deletes by meaning, over everything the key reaches.",
        "memories": rows,
    }
    write_object(store, FILE, report)
    replaced = sum(row["why"] == REPLACED for row in rows)
    exact = sum(bool(row["exact"]) for row in rows)
    return PrivacySummary(len(rows) - replaced, replaced, exact, store_at(store).describe(FILE))


def _row(text: StaleText, living: Sequence[str]) -> dict[str, Json]:
    """One text of the report. `living`: scope paths that hold memories Mem0 still has."""
    paths = _paths(text.selector)
    if text.deleted_at is not None:
        why = "deleted in Mem0"
    elif text.now == "active":
        why = REPLACED
    else:
        why = f"{text.now} in Mem0"
    return {
        "id": text.mem0_id,
        "version": text.version,
        "scopes": paths,
        "deleted_at": text.deleted_at,
        "why": why,
        "turn": text.turn_id,
        "exact": not any(other == path or other.startswith(path + "/") for path in paths for other in living),
    }


def _paths(selector: str) -> list[str]:
    """The scope paths of a selector in canonical JSON."""
    return sorted({path for clause in selector_of(selector) for path in clause})
