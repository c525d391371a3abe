"""Answers for a cutover: who is behind, what is undecided, and what Spectron has that Mem0 no longer has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import CARRIER, FACTS, IS_CURRENT, OF_ANY_PLAN, STORED, UNDECIDED, marks
from spectron_migrate.records import ENTITY_IDS


@dataclass(frozen=True, slots=True)
class Undecided:
    """Counts of facts that are not decided yet."""

    remaining: int
    in_doubt: int
    undecidable: int

    @property
    def total(self) -> int:
        """All undecided facts."""
        return self.remaining + self.in_doubt + self.undecidable


@dataclass(frozen=True, slots=True)
class StaleText:
    """A text that Mem0 no longer has and Spectron still does."""

    mem0_id: str
    version: int
    selector: str
    """Canonical JSON, as the ledger keeps it."""
    deleted_at: str | None
    """When the memory was found missing in Mem0; None if Mem0 still has its row."""
    now: str
    """The state that Mem0 gives its row: `active`, deleted, expired, archived or replaced."""
    turn_id: str | None


def count_undecided(ledger: Ledger) -> Undecided:
    """Count the facts that are not decided."""
    count = f"SELECT count(*) FROM fact WHERE {OF_ANY_PLAN} AND state = ?"
    return Undecided(*(ledger.db.execute(count, (state,)).fetchone()[0] for state in UNDECIDED))


def owners_behind(ledger: Ledger, most: int, short: Sequence[str]) -> set[str] | None:
    """Ids of all owners for whom Spectron lacks something that Mem0 has; None if there are more than `most`.

    These are the owners of undecided memories, and of memories in `short`, which are decided but not in Spectron for
    their owner. A memory that changed owners counts for both.
    """
    rows = ledger.db.execute(
        f"SELECT record, moved_from FROM {FACTS} WHERE {OF_ANY_PLAN} AND state IN ({marks(UNDECIDED)}) LIMIT ?",
        (*UNDECIDED, most * 4),
    ).fetchall()
    if len(rows) + len(short) >= most * 4:
        return None
    for mem0_id in short:
        rows += ledger.db.execute("SELECT record, moved_from FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchall()
    owners: set[str] = set()
    for row in rows:
        for ids in (json.loads(row["record"]), json.loads(row["moved_from"] or "{}")):
            owners.update(ids[name] for name in ENTITY_IDS if ids.get(name))
    return owners if len(owners) <= most else None


def count_living(ledger: Ledger) -> int:
    """How many memories Mem0 has, as far as the ledger knows."""
    count = "SELECT count(*) FROM memory WHERE tombstoned_at IS NULL AND is_message = 0"
    return int(ledger.db.execute(count).fetchone()[0])


def refused_memories(ledger: Ledger) -> dict[str, str]:
    """Memories whose newest text the server refused, with the version and its reason."""
    rows = ledger.db.execute(
        f"SELECT memory.mem0_id, number, reason FROM {FACTS} WHERE state = 'refused' AND {IS_CURRENT}"
        " ORDER BY memory.mem0_id"
    )
    return {row["mem0_id"]: f"version {row['number']}: {row['reason'] or ''}" for row in rows}


def moved_memories(ledger: Ledger) -> dict[str, str]:
    """Memories that are in Spectron under other owners than in Mem0, with the owners in Spectron as JSON."""
    rows = ledger.db.execute(
        "SELECT mem0_id, moved_from FROM memory WHERE moved_from IS NOT NULL AND tombstoned_at IS NULL ORDER BY mem0_id"
    )
    return {row["mem0_id"]: row["moved_from"] for row in rows}


def will_not_expire(ledger: Ledger) -> dict[str, str]:
    """Memories in Spectron that expire in Mem0, and when they do."""
    rows = ledger.db.execute(
        "SELECT mem0_id, expires FROM memory WHERE expires IS NOT NULL AND tombstoned_at IS NULL"
        f" AND is_message = 0 AND EXISTS (SELECT 1 FROM version JOIN fact ON fact.id = version.id JOIN {CARRIER}"
        f" WHERE version.mem0_id = memory.mem0_id AND carrier.state IN ({marks(STORED)})) ORDER BY mem0_id",
        STORED,
    )
    return {row["mem0_id"]: row["expires"] for row in rows}


def stale_texts(ledger: Ledger) -> Iterator[StaleText]:
    """Texts in Spectron whose memories Mem0 has deleted, no longer shows, or has with another text."""
    rows = ledger.db.execute(
        "SELECT memory.mem0_id, number, selector.text AS selector, tombstoned_at, receipt.turn_id, mem0_state"
        f" FROM {FACTS} JOIN {CARRIER} JOIN selector ON selector.no = carrier.selector"
        " LEFT JOIN receipt ON receipt.fact = carrier.id"
        f" WHERE is_message = 0 AND carrier.state IN ({marks(STORED)})"
        f" AND (mem0_state != 'active' OR NOT ({IS_CURRENT})) ORDER BY memory.mem0_id, number",
        STORED,
    )
    for row in rows:
        yield StaleText(
            row["mem0_id"], row["number"], row["selector"], row["tombstoned_at"], row["mem0_state"], row["turn_id"]
        )


def living_selectors(ledger: Ledger) -> set[str]:
    """Selectors that hold something that Mem0 still has."""
    rows = ledger.db.execute(
        "SELECT text FROM selector WHERE no IN"
        f" (SELECT selector FROM {FACTS} WHERE state IN ({marks(STORED)}) AND mem0_state = 'active' AND {IS_CURRENT})",
        STORED,
    )
    return {row["text"] for row in rows}


def selectors_in_use(ledger: Ledger) -> list[str]:
    """Every selector under which something is or may be in Spectron."""
    rows = ledger.db.execute(
        "SELECT text FROM selector WHERE no IN (SELECT selector FROM fact WHERE state NOT IN ('skipped', 'refused'))"
    )
    return sorted(row["text"] for row in rows)


def scan_began(ledger: Ledger, scan: str) -> str | None:
    """When a scan began; None if the scan or its time is unknown."""
    row = ledger.db.execute("SELECT began FROM scan WHERE id = ?", (scan,)).fetchone()
    return str(row["began"]) if row is not None and row["began"] is not None else None
