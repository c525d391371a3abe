"""The privacy report: what was deleted or replaced in Mem0 and is still in Spectron, and what can be done about it.

Spectron has no deletion by id. A scope that holds nothing else of ours goes as a whole, exactly; `forget` finds
by meaning, over everything that a key reaches, and is therefore named and never used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.files.atomic import write_json
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.ledger.read.cutover import StaleText
from spectron_migrate.migration.rounds import open_ledgers
from spectron_migrate.records import Json, selector_of

FILE = "privacy.json"
REPLACED = "replaced by a newer text"


@dataclass(frozen=True, slots=True)
class Privacy:
    """How much of it there is; the file names all of it, by id and scope, without a text."""

    deleted: int
    """Texts of memories that Mem0 has deleted, or shows to nobody any more, and that Spectron still holds."""
    replaced: int
    """Older texts of memories that Mem0 has changed since."""
    exact: int
    """Of both, those in scopes where nothing else of ours is: erasing the scope is exact."""
    path: str

    def to_json(self) -> dict[str, Json]:
        """For the command's JSON."""
        return {"deleted": self.deleted, "replaced": self.replaced, "exact": self.exact, "path": self.path}


def write_report(folder: Path, *, now: str) -> Privacy | None:
    """Write `privacy.json` into the state directory; None before anything was replayed, or while a shard is missing."""
    try:
        with open_ledgers(folder) as ledgers:
            return _write(folder, ledgers, now)
    except (InputError, Incomplete):
        return None


def _write(folder: Path, ledgers: Sequence[Ledger], now: str) -> Privacy:
    living = [path for ledger in ledgers for text in cutover.living_selectors(ledger) for path in _paths(text)]
    rows = [_row(left, living) for ledger in ledgers for left in cutover.stale_texts(ledger)]
    deleted = [row for row in rows if row["why"] != REPLACED]
    told = {
        "schema": 1,
        "at": now,
        "explains": "Deleted or replaced in Mem0, still in Spectron. `exact`: nothing that Mem0 still has lies in or"
        " below its scopes, so that erasing them (POST /scopes/forget) takes nothing else of this migration;"
        " what others wrote there would go too. Where it is false, Spectron offers no way to remove just this"
        " memory: /forget deletes by meaning, over all that the key reaches.",
        "memories": rows,
    }
    write_json(folder / FILE, told)
    exact = sum(bool(row["exact"]) for row in rows)
    return Privacy(len(deleted), len(rows) - len(deleted), exact, str(folder / FILE))


def _row(left: StaleText, living: Sequence[str]) -> dict[str, Json]:
    paths = _paths(left.selector)
    why = "deleted in Mem0" if left.deleted_at is not None else f"{left.now} in Mem0"
    alone = not any(other == path or other.startswith(path + "/") for path in paths for other in living)
    return {
        "id": left.mem0_id,
        "version": left.version,
        "scopes": paths,
        "deleted_at": left.deleted_at,
        "why": REPLACED if left.deleted_at is None and left.now == "active" else why,
        "turn": left.turn_id,
        "exact": alone,
    }


def _paths(selector: str) -> list[str]:
    return sorted({path for clause in selector_of(selector) for path in clause})
