"""What a plan would send, by scope and by lane, for a forecast."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.records import Infer, Memory


@dataclass(frozen=True, slots=True)
class PlannedMemory:
    """A memory that a plan would send."""

    memory: Memory
    selector: str
    """Canonical JSON."""
    run: str | None
    infer: Infer


@dataclass(frozen=True, slots=True)
class PlannedLane:
    """A lane and how many of its facts are planned, with and without extraction."""

    lane: str
    full: int
    none: int


def planned_memories(ledger: Ledger, plan: int) -> Iterator[PlannedMemory]:
    """The memories scope by scope, oldest first. Rows are streamed; SQLite sorts them on disk."""
    ordered = ledger.db.execute(
        "SELECT id, selector FROM fact WHERE plan = ? AND state = 'planned' ORDER BY selector, order_key", (plan,)
    )
    for fact in ordered:
        row = ledger.db.execute(
            "SELECT record, selector.text AS selector, run, infer FROM fact JOIN version ON version.id = fact.id"
            " JOIN memory ON memory.mem0_id = version.mem0_id JOIN selector ON selector.no = fact.selector"
            " WHERE fact.id = ?",
            (fact["id"],),
        ).fetchone()
        memory = Memory.from_json(json.loads(row["record"]))
        yield PlannedMemory(memory, row["selector"], row["run"], row["infer"])


def planned_lanes(ledger: Ledger, plan: int) -> Iterator[PlannedLane]:
    """Every lane with planned facts."""
    rows = ledger.db.execute(
        "SELECT name, n_full, n_none FROM (SELECT lane, count(*) FILTER (WHERE infer = 'full') AS n_full,"
        "  count(*) FILTER (WHERE infer = 'none') AS n_none FROM fact WHERE state = 'planned' AND plan = ?"
        "  GROUP BY lane) AS counted JOIN lane ON lane.no = counted.lane",
        (plan,),
    )
    return (PlannedLane(row["name"], row["n_full"], row["n_none"]) for row in rows)


def count_late_planned(ledger: Ledger, plan: int) -> int:
    """Facts of the plan that come too late for their lane."""
    row = ledger.db.execute("SELECT count(*) FROM fact WHERE plan = ? AND state = 'planned' AND late = 1", (plan,))
    return int(row.fetchone()[0])
