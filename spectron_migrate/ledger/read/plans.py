"""What a plan writes, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.pending import OPEN, REASON
from spectron_migrate.ledger.schema import CARRIER, STORED, marks
from spectron_migrate.records import digest

LISTED = 100
"""The most items of a list in a summary."""
PATHS_AT_ONCE = 500
"""How many paths one query may ask for."""


@dataclass(frozen=True, slots=True)
class NamedFact:
    """A fact in a list for people: its memory, and the reason for its state."""

    mem0_id: str
    version: int
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """Counts of a plan's facts at one moment. The difference between two of these is what a run did."""

    stored: int
    not_extracted: int
    late: int
    by_state: Mapping[str, int]

    @property
    def total(self) -> int:
        """Facts that are, or will be, sent."""
        return sum(self.by_state.values()) - self.by_state.get("skipped", 0)

    @property
    def waiting(self) -> int:
        """Facts that are not decided."""
        return self.by_state.get("planned", 0) + self.by_state.get("intended", 0)


def plan_counts(ledger: Ledger, plan: int) -> PlanCounts:
    """Count the facts of a plan."""
    counts = count_by_state(ledger, plan)
    not_extracted = counts.get("stored_not_extracted", 0)
    return PlanCounts(counts.get("written", 0) + not_extracted, not_extracted, count_late(ledger, plan), counts)


def count_by_state(ledger: Ledger, plan: int) -> dict[str, int]:
    """Facts of a plan by state."""
    rows = ledger.db.execute("SELECT state, count(*) AS n FROM fact WHERE plan = ? GROUP BY state", (plan,))
    return {row["state"]: row["n"] for row in rows}


def count_replaced(ledger: Ledger, plan: int) -> int:
    """How many rows of the plan's dump are older than the ledger's texts."""
    row = ledger.db.execute("SELECT replaced FROM plan WHERE id = ?", (plan,)).fetchone()
    return int(row["replaced"])


def count_pending(ledger: Ledger, plan: int) -> int:
    """How many memories of the plan are pending: their text may or may not be newer than the ledger's."""
    row = ledger.db.execute(f"SELECT count(DISTINCT mem0_id) FROM pending WHERE plan = ? AND {OPEN}", (plan,))
    return int(row.fetchone()[0])


def count_late(ledger: Ledger, plan: int) -> int:
    """How many late facts of the plan are stored."""
    row = ledger.db.execute(
        f"SELECT count(*) FROM fact WHERE +plan = ? AND late = 1 AND state IN ({marks(STORED)})",
        (plan, *STORED),
    ).fetchone()
    return int(row[0])


def skipped_by_reason(ledger: Ledger, plan: int) -> dict[str, int]:
    """Skipped facts of the plan by reason, most frequent first."""
    rows = ledger.db.execute(
        "SELECT reason, count(*) AS n FROM fact WHERE plan = ? AND state = 'skipped' GROUP BY reason ORDER BY n DESC",
        (plan,),
    )
    return {row["reason"] or "": row["n"] for row in rows}


def will_not_expire(ledger: Ledger, plan: int) -> list[str]:
    """Ids of memories that would expire in Mem0, but are or will be in Spectron for good, by this plan."""
    rows = ledger.db.execute(
        "SELECT mem0_id FROM memory WHERE expires IS NOT NULL AND is_message = 0 AND EXISTS"
        f" (SELECT 1 FROM version JOIN fact ON fact.id = version.id JOIN {CARRIER}"
        "  WHERE version.mem0_id = memory.mem0_id AND +carrier.plan = ?"
        "  AND carrier.state IN ('planned', 'intended', 'written', 'stored_not_extracted')) ORDER BY mem0_id",
        (plan,),
    )
    return [row["mem0_id"] for row in rows]


def scopes_and_lanes(ledger: Ledger, plan: int) -> tuple[int, int]:
    """The number of selectors and of lanes of the plan, as counted when it was made."""
    row = ledger.db.execute("SELECT scopes, lanes FROM plan WHERE id = ?", (plan,)).fetchone()
    return int(row["scopes"] or 0), int(row["lanes"] or 0)


def named_facts(
    ledger: Ledger,
    plan: int,
    states: Sequence[str],
    limit: int | None = None,
    *,
    stored_reasons: Sequence[str] = (),
) -> Iterator[NamedFact]:
    """Facts of the plan in these states, by id; also those that are stored with one of `stored_reasons`.

    `pending` among the states adds the plan's pending memories.
    """
    facts = "SELECT mem0_id, number, state, reason FROM fact JOIN version ON version.id = fact.id WHERE plan = ?"
    rows = ledger.db.execute(
        f"{facts} AND state IN ({marks(states)})"
        f" UNION ALL {facts} AND state = 'stored_not_extracted' AND reason IN ({marks(stored_reasons)})"
        f" UNION ALL SELECT mem0_id, version, 'pending', ? FROM pending WHERE plan = ? AND ? = 1 AND {OPEN}"
        " ORDER BY mem0_id, number" + (" LIMIT ?" if limit is not None else ""),
        (plan, *states, plan, *stored_reasons, REASON, plan, "pending" in states, *([] if limit is None else [limit])),
    )
    return (NamedFact(row["mem0_id"], row["number"], row["state"], row["reason"]) for row in rows)


def was_planned(ledger: Ledger, dump_digest: str) -> bool:
    """Whether a finished plan was made of exactly this dump."""
    row = ledger.db.execute(
        "SELECT 1 FROM plan JOIN scan ON scan.no = plan.scan WHERE scan.id = ? AND plan.complete = 1 LIMIT 1",
        (dump_digest,),
    ).fetchone()
    return row is not None


def whole_fingerprint(dump_digest: str, mapping_digest: str) -> str:
    """The fingerprint of a plan of a dump without filters."""
    return digest(dump_digest, mapping_digest, "", "", "")


def was_planned_whole(ledger: Ledger, dump_digest: str, mapping_digest: str) -> bool:
    """Whether a finished plan was made of exactly this dump with this mapping, without filters."""
    row = ledger.db.execute(
        "SELECT 1 FROM plan WHERE fingerprint = ? AND complete = 1 LIMIT 1",
        (whole_fingerprint(dump_digest, mapping_digest),),
    ).fetchone()
    return row is not None


def is_last_scan(ledger: Ledger, dump_digest: str) -> bool:
    """Whether nothing, neither a dump nor captured results, was planned after this dump first was."""
    row = ledger.db.execute("SELECT id FROM scan ORDER BY no DESC LIMIT 1").fetchone()
    return row is not None and row["id"] == dump_digest


def target_paths(ledger: Ledger, plan: int, *, refused: bool = False) -> list[str]:
    """Every path that a fact of the plan is or will be written to, and the paths of facts in doubt of any plan.

    `refused`: also those of refused facts.
    """
    states = ("planned", "intended", "refused") if refused else ("planned", "intended")
    rows = ledger.db.execute(
        "SELECT DISTINCT path FROM selector_path WHERE selector IN"
        f" (SELECT selector FROM fact WHERE plan = ? AND state IN ({marks(states)})"
        " UNION SELECT selector FROM fact WHERE state = 'intended') ORDER BY path",
        (plan, *states),
    )
    return [row["path"] for row in rows]


def unintended_paths(ledger: Ledger, paths: Sequence[str]) -> list[str]:
    """Which of the paths no run has intended to register, and no adoption has found registered."""
    intended = _those_where(ledger, paths, "intended_at IS NOT NULL OR registered = 1")
    return [path for path in paths if path not in intended]


def foreign_paths(ledger: Ledger, paths: Sequence[str]) -> list[str]:
    """Which of the paths existed before this migration intended to register them."""
    foreign = _those_where(ledger, paths, "listed_before = 1 AND registered = 0")
    return [path for path in paths if path in foreign]


def _those_where(ledger: Ledger, paths: Sequence[str], condition: str) -> set[str]:
    """Which of the paths have a row that meets the condition."""
    found: set[str] = set()
    for at in range(0, len(paths), PATHS_AT_ONCE):
        part = paths[at : at + PATHS_AT_ONCE]
        rows = ledger.db.execute(f"SELECT path FROM scope WHERE path IN ({marks(part)}) AND ({condition})", part)
        found.update(row["path"] for row in rows)
    return found


def would_come_late(ledger: Ledger, plan: int, lane: str, key: str, mem0_id: str) -> bool:
    """Whether the memory would be late: no text of it was ever sent, and the plan sends a newer fact in its lane."""
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND lane = (SELECT no FROM lane WHERE name = ?)"
        "  AND infer = 'full' AND plan = ? AND order_key > ?)"
        " AND NOT EXISTS(SELECT 1 FROM version JOIN fact ON fact.id = version.id WHERE mem0_id = ? AND was_sent = 1)",
        (lane, plan, key, mem0_id),
    ).fetchone()
    return bool(row[0])
