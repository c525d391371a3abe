"""How far a migration is: counted from indexes alone, so that a million memories cost little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from spectron_migrate.ledger.ledger import Ledger, MigrationRow
from spectron_migrate.ledger.pending import OPEN, REASON
from spectron_migrate.ledger.probes import ProbeAnswer, probe_answers
from spectron_migrate.ledger.read.adoption_steps import is_unfinished
from spectron_migrate.ledger.read.erases import erased
from spectron_migrate.ledger.read.plans import LISTED, NamedFact
from spectron_migrate.ledger.runs import LastRun, RefusedRun, last_refusal, last_runs, runs_at_work
from spectron_migrate.ledger.schema import FactState

LANES = 5
"""How many lanes are listed: those with the most facts left."""


@dataclass(frozen=True, slots=True)
class LaneLeft:
    """A lane and how many of its facts are left."""

    lane: str
    remaining: int


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Everything that `status` says."""

    migration: MigrationRow | None
    states: dict[str, int]
    skipped: dict[str, int]
    """By reason, the most frequent first."""
    late: int
    lanes_left: int
    lanes: list[LaneLeft]
    sessions: dict[str, int]
    """By state. An orphan is a session whose answer never arrived; if the server created it, it is empty."""
    scopes: int
    named: list[NamedFact]
    """The first refused, undecidable and pending memories, and why."""
    runs: list[LastRun]
    """The newest run, and those that delivered together with it, newest first."""
    probe: list[ProbeAnswer]
    erased: dict[str, str]
    """Scopes that were erased, and when. Their memories are planned again."""
    refused_run: RefusedRun | None = None
    """Why the newest run was refused."""
    half_adopted: bool = False
    """Whether an adoption was begun and not finished. Then only an adoption may run."""
    pending: int = 0
    """Memories for which nothing shows whether Mem0's text or the ledger's is newer."""
    at_work: Sequence[LastRun] = ()
    """Runs whose process is alive."""

    @property
    def remaining(self) -> int:
        """Memories that are planned and not yet sent."""
        return self.states.get("planned", 0)

    @property
    def to_send(self) -> int:
        """Memories that are, or should be, in Spectron: all but the skipped ones."""
        return sum(self.states.values()) - self.states.get("skipped", 0)

    @property
    def written(self) -> int:
        """Memories that are in Spectron."""
        return self.states.get("written", 0) + self.states.get("stored_not_extracted", 0)


def read_status(ledger: Ledger) -> MigrationStatus:
    """Read all of it."""
    migration, runs = ledger.migration(), last_runs(ledger)
    lanes_left, lanes = _lanes(ledger)
    skipped = _counts(ledger, "SELECT reason, count(*) FROM fact WHERE state = 'skipped' GROUP BY reason")
    return MigrationStatus(
        migration=migration,
        states=count_by_state(ledger),
        skipped=dict(Counter(skipped).most_common()),
        late=count_late(ledger),
        lanes_left=lanes_left,
        lanes=lanes,
        sessions=_counts(ledger, "SELECT state, count(*) FROM session GROUP BY state"),
        scopes=int(ledger.db.execute(_SCOPES).fetchone()[0]),
        pending=count_pending(ledger),
        named=_named(ledger),
        runs=runs,
        at_work=runs_at_work(ledger, runs),
        probe=[] if migration is None else probe_answers(ledger, migration.context),
        erased=erased(ledger),
        refused_run=last_refusal(ledger),
        half_adopted=is_unfinished(ledger),
    )


def count_all(ledger: Ledger) -> dict[str, int]:
    """All facts by state."""
    return {row[0]: row[1] for row in ledger.db.execute("SELECT state, count(*) FROM fact GROUP BY state")}


def count_late(ledger: Ledger) -> int:
    """Facts that were sent late."""
    return int(ledger.db.execute(_LATE).fetchone()[0])


def count_in_doubt(ledger: Ledger) -> int:
    """How many requests are being recovered: sent again, or with a candidate."""
    return int(ledger.db.execute(_IN_DOUBT).fetchone()[0])


def count_pending(ledger: Ledger) -> int:
    """Memories for which nothing shows whether Mem0's text or the ledger's is newer."""
    return int(ledger.db.execute(_PENDING).fetchone()[0])


def count_by_state(ledger: Ledger) -> dict[str, int]:
    """Facts by state. `written` is computed from the total, because it is by far the largest."""
    *others, (_, every) = ledger.db.execute(_STATES).fetchall()
    counts: dict[str, int] = dict(map(tuple, others))
    counts["written"] = every - sum(counts.values())
    return {state: count for state, count in counts.items() if count}


_OTHERS = ", ".join(f"('{state}')" for state in get_args(FactState) if state != "written")
_STATES = (
    f"WITH other(state) AS (VALUES {_OTHERS}) SELECT state, (SELECT coalesce(sum("
    "(SELECT count(*) FROM fact WHERE fact.plan = plan.id AND fact.state = other.state)), 0) FROM plan) FROM other"
    " UNION ALL SELECT 'all', (SELECT count(*) FROM fact)"
)
"""All counts in one statement, because a replay may write at the same time."""
_LATE = "SELECT count(*) FROM fact WHERE late = 1"
_IN_DOUBT = "SELECT count(*) FROM request WHERE attempts > 0 OR candidate IS NOT NULL"
_PENDING = f"SELECT count(DISTINCT mem0_id) FROM pending WHERE {OPEN}"
_SCOPES = "SELECT count(*) FROM scope WHERE registered = 1"


def _counts(ledger: Ledger, query: str) -> dict[str, int]:
    return {name or "": count for name, count in ledger.db.execute(query)}


def _lanes(ledger: Ledger) -> tuple[int, list[LaneLeft]]:
    rows = ledger.db.execute(
        "SELECT name, n, lanes FROM (SELECT lane, n, count(*) OVER () AS lanes FROM"
        "  (SELECT lane, count(*) AS n FROM fact WHERE state = 'planned' GROUP BY lane) AS counted"
        "  ORDER BY n DESC, lane LIMIT ?) AS largest JOIN lane ON lane.no = largest.lane ORDER BY n DESC, lane.no",
        (LANES,),
    ).fetchall()
    return (rows[0]["lanes"] if rows else 0), [LaneLeft(row["name"], row["n"]) for row in rows]


def _named(ledger: Ledger) -> list[NamedFact]:
    """Query plan by plan, because the index begins with the plan.

    Undecidable facts come first, because they hold their lanes.
    """
    found: list[NamedFact] = []
    plans = [row["id"] for row in ledger.db.execute("SELECT id FROM plan ORDER BY id DESC")]
    for state in ("undecidable", "refused"):
        for plan in plans:
            rows = ledger.db.execute(
                "SELECT mem0_id, number, state, reason FROM fact JOIN version ON version.id = fact.id"
                " WHERE plan = ? AND state = ? LIMIT ?",
                (plan, state, LISTED - len(found)),
            )
            found += [NamedFact(row["mem0_id"], row["number"], row["state"], row["reason"]) for row in rows]
    rows = ledger.db.execute(
        f"SELECT mem0_id, version FROM pending WHERE {OPEN} ORDER BY mem0_id LIMIT ?", (LISTED - len(found),)
    )
    return found + [NamedFact(row["mem0_id"], row["version"], "pending", REASON) for row in rows]
