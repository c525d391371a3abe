"""Reading the ledger: counts for summaries, receipts for verification. Nothing here changes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.messages import FACTS
from spectron_migrate.ledger.schema import SENT, STORED, marks
from spectron_migrate.records import Memory

LISTED = 100
"""Items of a list that are carried in a summary; the count and the file have the rest."""


@dataclass(frozen=True, slots=True)
class Named:
    """A fact in a list for people: which memory, and why."""

    mem0_id: str
    version: int
    state: str
    reason: str | None


def count_by_state(ledger: Ledger, plan: int) -> dict[str, int]:
    """Facts of a plan by state."""
    rows = ledger.db.execute("SELECT state, count(*) AS n FROM fact WHERE plan = ? GROUP BY state", (plan,))
    return {row["state"]: row["n"] for row in rows}


def count_all(ledger: Ledger) -> dict[str, int]:
    """All facts by state."""
    return {row[0]: row[1] for row in ledger.db.execute("SELECT state, count(*) FROM fact GROUP BY state")}


def count_replaced(ledger: Ledger, plan: int) -> int:
    """Rows of the plan's dump that are older than what the ledger has."""
    row = ledger.db.execute("SELECT replaced FROM plan WHERE id = ?", (plan,)).fetchone()
    return int(row["replaced"])


def count_late(ledger: Ledger, plan: int) -> int:
    """Late facts of the plan that are stored."""
    row = ledger.db.execute(
        f"SELECT count(*) FROM fact WHERE +plan = ? AND late = 1 AND state IN ({marks(STORED)})",
        (plan, *STORED),
    ).fetchone()
    return int(row[0])


def skipped_by_reason(ledger: Ledger, plan: int) -> dict[str, int]:
    """How many of the plan are skipped, by reason, most first."""
    rows = ledger.db.execute(
        "SELECT reason, count(*) AS n FROM fact WHERE plan = ? AND state = 'skipped' GROUP BY reason ORDER BY n DESC",
        (plan,),
    )
    return {row["reason"] or "": row["n"] for row in rows}


def will_not_expire(ledger: Ledger, plan: int) -> list[str]:
    """Ids of memories that would expire in Mem0 and that are, or will be, in Spectron for good by this plan."""
    rows = ledger.db.execute(
        "SELECT mem0_id FROM memory WHERE expires IS NOT NULL AND NOT is_message AND EXISTS"
        f" (SELECT 1 FROM {FACTS} WHERE made.mem0_id = memory.mem0_id AND +fact.plan = ?"
        "  AND fact.state IN ('planned', 'intended', 'written', 'stored_not_extracted')) ORDER BY mem0_id",
        (plan,),
    )
    return [row[0] for row in rows]


def scopes_and_lanes(ledger: Ledger, plan: int) -> tuple[int, int]:
    """Different selectors and lanes of what the plan writes or wrote, as they were counted when it was made."""
    row = ledger.db.execute("SELECT scopes, lanes FROM plan WHERE id = ?", (plan,)).fetchone()
    return int(row["scopes"] or 0), int(row["lanes"] or 0)


def named(ledger: Ledger, plan: int, states: Sequence[str], limit: int | None = None) -> Iterator[Named]:
    """Facts of the plan in these states, by id."""
    rows = ledger.db.execute(
        f"SELECT mem0_id, version, state, reason FROM fact WHERE plan = ? AND state IN ({marks(states)})"
        " ORDER BY mem0_id, version LIMIT ?",
        (plan, *states, -1 if limit is None else limit),
    )
    return (Named(row["mem0_id"], row["version"], row["state"], row["reason"]) for row in rows)


def target_paths(ledger: Ledger, plan: int) -> list[str]:
    """Every path that a fact of the plan is, or will be, written to."""
    rows = ledger.db.execute(
        "SELECT DISTINCT selector FROM fact WHERE plan = ? AND state IN ('planned', 'intended')", (plan,)
    )
    return sorted({path for row in rows for clause in json.loads(row["selector"]) for path in clause})


def foreign_paths(ledger: Ledger, paths: Sequence[str]) -> list[str]:
    """Those of the paths that were registered before this migration intended any."""
    return [
        path
        for path in paths
        if ledger.db.execute(
            "SELECT 1 FROM scope WHERE path = ? AND listed_before = 1 AND registered = 0", (path,)
        ).fetchone()
    ]


def would_come_late(ledger: Ledger, plan: int, lane: str, key: str, mem0_id: str) -> bool:
    """Whether the plan sends something of the lane that is newer than a memory which was never sent."""
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND lane = ?1 AND infer = 'full' AND plan = ?2"
        " AND order_key > ?3) AND NOT EXISTS(SELECT 1 FROM fact WHERE mem0_id = ?4 AND sent_after IS NOT NULL)",
        (lane, plan, key, mem0_id),
    ).fetchone()
    return bool(row[0])


def is_known(ledger: Ledger, mem0_id: str) -> bool:
    """Whether the ledger ever planned or skipped the memory."""
    return ledger.db.execute("SELECT 1 FROM fact WHERE mem0_id = ?", (mem0_id,)).fetchone() is not None


def was_sent(ledger: Ledger, mem0_id: str) -> bool:
    """Whether any version of the memory is, or may be, in Spectron."""
    row = ledger.db.execute(f"SELECT 1 FROM fact WHERE mem0_id = ? AND state IN ({marks(SENT)})", (mem0_id, *SENT))
    return row.fetchone() is not None


def made_at(ledger: Ledger) -> str:
    """When the ledger was made: two of the same migration differ in it."""
    row = ledger.db.execute("SELECT created_at FROM migration").fetchone()
    return str(row["created_at"]) if row else ""


def knows_other_dump(ledger: Ledger, dump_digest: str) -> bool:
    """Whether another dump than this was ever merged into the ledger."""
    return ledger.db.execute("SELECT 1 FROM scan WHERE id != ?", (dump_digest,)).fetchone() is not None


FULL_WRITE = "seconds a write with extraction takes"
NONE_WRITE = "seconds a write without extraction takes"


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a probe found out about a Spectron."""

    question: str
    answer: str
    at: str


def probe_answers(ledger: Ledger, context: str, endpoint: str | None = None) -> list[ProbeAnswer]:
    """What was found out about a context, at this endpoint or at any, newest first."""
    rows = ledger.db.execute(
        "SELECT question, answer, at FROM probe WHERE context = ?1 AND (?2 IS NULL OR endpoint = ?2)"
        " ORDER BY at DESC, question",
        (context, endpoint),
    )
    return [ProbeAnswer(row["question"], row["answer"], row["at"]) for row in rows]


def measured_seconds(ledger: Ledger, context: str) -> dict[str, float]:
    """How long writes took when the context was last probed, by question."""
    found: dict[str, float] = {}
    for row in probe_answers(ledger, context):
        if row.question in (FULL_WRITE, NONE_WRITE) and row.question not in found:
            with suppress(ValueError):
                found[row.question] = float(row.answer.split()[0])
    return found


def session_to_show(ledger: Ledger) -> tuple[str, set[str]] | None:
    """A session that the right server has: the newest with claimed turns and these, else the newest at all."""
    row = ledger.db.execute(
        "SELECT session.id, server_id FROM session WHERE server_id IS NOT NULL ORDER BY EXISTS"
        " (SELECT 1 FROM fact WHERE fact.session = session.id AND turn_id IS NOT NULL) DESC, session.id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    turns = ledger.db.execute("SELECT turn_id FROM fact WHERE session = ? AND turn_id IS NOT NULL", (row["id"],))
    return row["server_id"], {turn["turn_id"] for turn in turns}


def memories(ledger: Ledger) -> Iterator[tuple[str, bool]]:
    """Every memory that was ever planned, by id, and whether its tombstone stands."""
    rows = ledger.db.execute("SELECT mem0_id, tombstoned_at IS NOT NULL AS gone FROM memory ORDER BY mem0_id")
    return ((row["mem0_id"], bool(row["gone"])) for row in rows)


def memory_of(ledger: Ledger, mem0_id: str) -> Memory | None:
    """The memory as the newest scan gave it."""
    row = ledger.db.execute("SELECT record FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    return Memory.from_json(json.loads(row["record"])) if row else None
