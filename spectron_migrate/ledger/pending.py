"""Pending memories: Mem0 and the ledger have different texts, and neither descent nor times show which is newer.

They wait for a person, who says `replay --resolve ID=newer` or `ID=older` about the text that is not in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import Memory

if TYPE_CHECKING:
    from spectron_migrate.ledger.plan import ScanRow

REASON = (
    "its text differs from the one in the ledger, and no time tells which is newer: replay --resolve ID=newer or"
    " ID=older says what this text is"
)
OPEN = "is_older = 0 AND pending.version = (SELECT newest_version FROM memory WHERE memory.mem0_id = pending.mem0_id)"
"""A condition on a row of `pending`: nobody has decided it, and the ledger still has the text with which it was
compared.
"""


@dataclass(frozen=True, slots=True)
class PendingText:
    """A text that may or may not be newer, and the scan that showed it."""

    memory: Memory
    scan: ScanRow


def note_pending(
    db: Database,
    memory: Memory,
    record: str,
    scan: int,
    version: int,
    plan: int,
    *,
    descends_from: Callable[[int], bool],
) -> bool:
    """Keep a memory as pending; False if a person said that this text is older.

    `descends_from`: whether this scan is the one with that number, or its dump descends from that scan's dump.
    """
    decided = db.execute(
        "SELECT scan, record FROM pending WHERE mem0_id = ? AND version = ? AND is_older = 1", (memory.id, version)
    ).fetchall()
    if any(_is_same(row["record"], memory, descends_from(row["scan"])) for row in decided):
        return False
    db.execute("DELETE FROM pending WHERE mem0_id = ?", (memory.id,))
    db.execute(
        "INSERT INTO pending(mem0_id, scan, version, record, plan) VALUES (?, ?, ?, ?, ?)",
        (memory.id, scan, version, record, plan),
    )
    return True


def find_pending(ledger: Ledger, mem0_id: str) -> PendingText | None:
    """The pending text of a memory; None if there is none."""
    row = ledger.db.execute(
        "SELECT record, scan.id, kind, began, ended, complete, manifest_digest FROM pending"
        f" JOIN scan ON scan.no = pending.scan WHERE mem0_id = ? AND {OPEN}",
        (mem0_id,),
    ).fetchone()
    if row is None:
        return None
    from spectron_migrate.ledger.plan import ScanRow  # `status` counts what is pending, and needs no scan

    complete = None if row["complete"] is None else bool(row["complete"])
    scan = ScanRow(row["id"], row["kind"], row["began"], row["ended"], complete, row["manifest_digest"])
    return PendingText(Memory.from_json(json.loads(row["record"])), scan)


def say_older(ledger: Ledger, mem0_id: str) -> None:
    """Leave the pending text out for good, because a person said that it is older. Call inside a transaction."""
    ledger.db.execute(
        f"UPDATE plan SET replaced = replaced + 1 WHERE id = (SELECT plan FROM pending WHERE mem0_id = ? AND {OPEN})",
        (mem0_id,),
    )
    ledger.db.execute(f"UPDATE pending SET is_older = 1 WHERE mem0_id = ? AND {OPEN}", (mem0_id,))


def is_decided_older(ledger: Ledger, memory: Memory, dumps: Collection[str] | None) -> bool:
    """Whether a person said that this text is older than the ledger's.

    `dumps`: the digests of the dump that shows it, and of those from which it descends; None for Mem0 as it is now.
    """
    decided = ledger.db.execute(
        "SELECT pending.record, scan.id FROM pending JOIN scan ON scan.no = pending.scan"
        " JOIN memory ON memory.mem0_id = pending.mem0_id AND memory.newest_version = pending.version"
        " WHERE pending.mem0_id = ? AND is_older = 1",
        (memory.id,),
    ).fetchall()
    return any(_is_same(row["record"], memory, dumps is None or row["id"] in dumps) for row in decided)


def _is_same(record: str, memory: Memory, is_same_mem0: bool) -> bool:
    """Whether the memory is as it was when a person decided: Mem0 dates every edit.

    Without any time only a reading of the same Mem0 that followed shows that.
    """
    then = Memory.from_json(json.loads(record))
    if (then.memory, then.created_at, then.updated_at) != (memory.memory, memory.created_at, memory.updated_at):
        return False
    return bool(then.created_at or then.updated_at) or is_same_mem0
