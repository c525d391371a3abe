"""Plans: the facts that a run sends, made from a scan of Mem0, and which of these are late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.numbered import lane_number
from spectron_migrate.ledger.schema import OF_ANY_PLAN, SENT, UNDECIDED, marks
from spectron_migrate.records import Memory

_PAGE = 1000
LIVE = "live"
"""The kind of a scan that stands for captured rows."""


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """A memory that a changed mapping would move to a scope other than the one it was sent to."""

    mem0_id: str
    sent_to: str
    now: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A memory with a text that may be in Spectron."""

    memory: Memory
    """As Mem0 last showed it."""
    selector: str
    lane: str
    stands: bool
    """Whether Mem0 still has it, under the same owners as when it was sent."""


@dataclass(frozen=True, slots=True)
class ScanRow:
    """The scan of Mem0 that memories come from."""

    id: str
    kind: str
    began: str | None
    ended: str | None
    complete: bool | None
    manifest_digest: str
    ancestors: tuple[str, ...] = ()
    """Ids of the scans from which its dump was brought up to date, newest first."""


def begin_plan(ledger: Ledger, scan: ScanRow, fingerprint: str, now: str) -> int:
    """Begin a plan and return its id. Facts merged from now on belong to it. Call inside a transaction."""
    number = keep_scan(ledger, scan)
    row = ledger.db.execute(
        "INSERT INTO plan(fingerprint, scan, at) VALUES (?, ?, ?) RETURNING id", (fingerprint, number, now)
    ).fetchone()
    return int(row["id"])


def keep_scan(ledger: Ledger, scan: ScanRow) -> int:
    """Store a scan; returns its number."""
    row = ledger.db.execute(
        "INSERT INTO scan(id, kind, began, ended, complete, manifest_digest, parent) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(id) DO UPDATE SET kind = excluded.kind, began = excluded.began, ended = excluded.ended,"
        " complete = excluded.complete, manifest_digest = excluded.manifest_digest, parent = excluded.parent"
        " RETURNING no",
        (scan.id, scan.kind, scan.began, scan.ended, scan.complete, scan.manifest_digest, _parent(ledger, scan)),
    ).fetchone()
    return int(row["no"])


def _parent(ledger: Ledger, scan: ScanRow) -> int | None:
    """The newest ancestor that was planned here."""
    for ancestor in scan.ancestors:
        row = ledger.db.execute("SELECT no FROM scan WHERE id = ?", (ancestor,)).fetchone()
        if row is not None:
            return int(row["no"])
    return None


def captured_before(ledger: Ledger, moment: str) -> set[str]:
    """Memories that were captured before this moment and that no scan has shown yet."""
    if not has_captures(ledger):
        return set()
    rows = ledger.db.execute(
        "SELECT mem0_id FROM memory JOIN scan ON scan.no = memory.scan"
        " WHERE scan.kind = ? AND scan.ended < ? AND memory.tombstoned_at IS NULL AND is_message = 0",
        (LIVE, moment),
    )
    return {row["mem0_id"] for row in rows}


def follows_another_dump(ledger: Ledger, scan: int) -> bool:
    """Whether this scan's dump does not descend from the last complete dump that was planned here before it."""
    newest = ledger.db.execute(
        "SELECT max(no) AS no FROM scan WHERE complete = 1 AND kind != ? AND no != ?", (LIVE, scan)
    ).fetchone()["no"]
    descends = ledger.db.execute(
        "WITH RECURSIVE lineage(no) AS (SELECT no FROM scan WHERE no = ? UNION"
        " SELECT parent FROM scan JOIN lineage USING (no) WHERE parent IS NOT NULL)"
        " SELECT 1 FROM lineage WHERE no = ? LIMIT 1",
        (scan, newest),
    )
    return newest is not None and descends.fetchone() is None


def living_pages(ledger: Ledger) -> Iterator[list[str]]:
    """Memories that Mem0 has, according to the dumps that were planned here."""
    last = ""
    while True:
        rows = ledger.db.execute(
            "SELECT mem0_id FROM memory JOIN scan ON scan.no = memory.scan WHERE mem0_id > ? AND kind != ?"
            " AND tombstoned_at IS NULL AND is_message = 0 ORDER BY mem0_id LIMIT ?",
            (last, LIVE, _PAGE),
        ).fetchall()
        if not rows:
            return
        yield [row["mem0_id"] for row in rows]
        last = rows[-1]["mem0_id"]


def has_captures(ledger: Ledger) -> bool:
    """Whether any memory of this ledger was captured."""
    return ledger.db.execute("SELECT 1 FROM scan WHERE kind = ? LIMIT 1", (LIVE,)).fetchone() is not None


def last_plan(ledger: Ledger) -> tuple[int, str] | None:
    """Id and fingerprint of the newest finished plan."""
    row = ledger.db.execute("SELECT id, fingerprint FROM plan WHERE complete = 1 ORDER BY id DESC LIMIT 1").fetchone()
    return (row["id"], row["fingerprint"]) if row else None


def base_plan(ledger: Ledger, fence: str) -> tuple[int, str] | None:
    """The newest plan, and the beginning of the newest complete scan after the fence; None if there is no such scan."""
    row = ledger.db.execute(
        "SELECT (SELECT max(id) FROM plan WHERE complete = 1) AS number, max(scan.began) AS began FROM scan"
        " WHERE complete = 1 AND kind != ? AND began > ?",
        (LIVE, fence),
    ).fetchone()
    return None if row["number"] is None or row["began"] is None else (int(row["number"]), str(row["began"]))


def last_plan_and_scan(ledger: Ledger) -> tuple[int, str, str] | None:
    """Id, fingerprint and scan of the newest finished plan."""
    row = ledger.db.execute(
        "SELECT plan.id, fingerprint, scan.id AS scan FROM plan JOIN scan ON scan.no = plan.scan"
        " WHERE plan.complete = 1 ORDER BY plan.id DESC LIMIT 1"
    ).fetchone()
    return (row["id"], row["fingerprint"], row["scan"]) if row else None


def adopt_undecided(ledger: Ledger, plan: int) -> None:
    """Move undecided facts of other plans into this plan."""
    ledger.db.execute(
        f"UPDATE fact SET plan = ? WHERE {OF_ANY_PLAN} AND state IN ({marks(UNDECIDED)}) AND plan != ?",
        (plan, *UNDECIDED, plan),
    )


def set_fingerprint(ledger: Ledger, plan: int, fingerprint: str, *, scan: str | None = None) -> None:
    """Set the plan's fingerprint, and its scan if one is given."""
    ledger.db.execute(
        "UPDATE plan SET fingerprint = ?, scan = coalesce((SELECT no FROM scan WHERE id = ?), scan) WHERE id = ?",
        (fingerprint, scan, plan),
    )


def finish_plan(ledger: Ledger, plan: int, *, mapping_digest: str, count: bool = True) -> None:
    """Mark the plan as complete: a run may resume it.

    `count`: also count its scopes and lanes, which reads all its facts.
    """
    if count:
        _count_scopes_and_lanes(ledger, plan)
    ledger.db.execute("UPDATE plan SET complete = 1 WHERE id = ?", (plan,))
    ledger.db.execute("UPDATE migration SET mapping_digest = ?", (mapping_digest,))


def _count_scopes_and_lanes(ledger: Ledger, plan: int) -> None:
    ledger.db.execute(
        "UPDATE plan SET (scopes, lanes) ="
        " (SELECT count(DISTINCT selector), count(DISTINCT lane) FROM fact WHERE plan = ? AND state != 'skipped')"
        " WHERE id = ?",
        (plan, plan),
    )


def sent(ledger: Ledger) -> Iterator[Sent]:
    """Every memory that may be in Spectron, and where. Read in pages, so that the ledger may change meanwhile."""
    last = ""
    while True:
        rows = ledger.db.execute(
            "SELECT memory.mem0_id, record, selector.text AS selector, lane.name AS lane,"
            " tombstoned_at IS NULL AND moved_from IS NULL AS stands"
            " FROM memory JOIN fact ON fact.id ="
            " (SELECT max(own.id) FROM version JOIN fact AS own ON own.id = version.id"
            f"  WHERE version.mem0_id = memory.mem0_id AND own.state IN ({marks(SENT)}))"
            " JOIN selector ON selector.no = fact.selector JOIN lane ON lane.no = fact.lane"
            " WHERE memory.mem0_id > ? ORDER BY memory.mem0_id LIMIT ?",
            (*SENT, last, _PAGE),
        ).fetchall()
        for row in rows:
            memory = Memory.from_json(json.loads(row["record"]))
            yield Sent(memory, row["selector"], row["lane"], bool(row["stands"]))
        if not rows:
            return
        last = rows[-1]["mem0_id"]


def relane(ledger: Ledger, mem0_id: str, lane: str) -> None:
    """Move the sent facts of a memory to its lane under the changed mapping. They count for the high-water there."""
    ledger.db.execute(
        f"UPDATE fact SET lane = ? WHERE state IN ({marks(SENT)}) AND id IN (SELECT id FROM version WHERE mem0_id = ?)",
        (lane_number(ledger.db, lane), *SENT, mem0_id),
    )


_LATE = (
    "SELECT fact.id FROM lane CROSS JOIN fact WHERE fact.lane = lane.no"
    " AND fact.state = 'planned' AND fact.infer = 'full' AND fact.plan = ? AND fact.order_key <"
    " (SELECT max(sent.order_key) FROM fact AS sent"
    "  WHERE sent.lane = lane.no AND sent.infer = 'full' AND sent.was_sent = 1)"
)
"""Works lane by lane, so that for a plan of which nothing was sent only each lane is read, not each fact."""


def would_mark_late(ledger: Ledger, plan: int) -> bool:
    """Whether `mark_late` would change a fact."""
    return ledger.db.execute(f"{_LATE} LIMIT 1", (plan,)).fetchone() is not None


def mark_late(ledger: Ledger, plan: int, *, everything: bool = False) -> int:
    """Turn `full` facts that come too late for their lane into `none`, so that they are stored but supersede nothing.

    A fact is late if its order key is below the lane's high-water, the greatest order key sent with `full`. With
    `everything` all planned facts are late, because applications already write to Spectron. Returns how many facts of
    the plan are late.
    """
    which = "plan = ? AND state = 'planned' AND infer = 'full'" if everything else f"id IN ({_LATE})"
    ledger.db.execute(f"UPDATE fact SET infer = 'none', late = 1 WHERE {which}", (plan,))
    counted = ledger.db.execute("SELECT count(*) FROM fact WHERE +plan = ? AND late = 1 AND state = 'planned'", (plan,))
    return int(counted.fetchone()[0])
