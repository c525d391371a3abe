"""Plans: what a run is about, made of a reading of Mem0, and what comes too late for its place in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import SENT, marks
from spectron_migrate.records import Json, Memory, canonical_json

_PAGE = 1000
LIVE = "live"
"""The kind of a scan that is none: what the application's adapters saw Mem0 store."""


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """A memory that was sent to one scope and that a changed mapping would put into another."""

    mem0_id: str
    sent_to: str
    now: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A memory of which a text may be in Spectron."""

    memory: Memory
    """As Mem0 last showed it."""
    selector: str
    lane: str
    stands: bool
    """Whether Mem0 still has it, where it was when it was sent."""


@dataclass(frozen=True, slots=True)
class ScanRow:
    """The reading of Mem0 that the memories come from."""

    id: str
    kind: str
    began: str | None
    ended: str | None
    complete: bool | None
    manifest_digest: str


def begin_plan(ledger: Ledger, scan: ScanRow, fingerprint: str, now: str) -> int:
    """Open a plan; every fact it touches belongs to it from then on. Call inside a transaction."""
    keep_scan(ledger, scan)
    cursor = ledger.db.execute("INSERT INTO plan(fingerprint, scan, at) VALUES (?, ?, ?)", (fingerprint, scan.id, now))
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT always has one
    return cursor.lastrowid


def keep_scan(ledger: Ledger, scan: ScanRow) -> None:
    """Remember a reading of Mem0."""
    ledger.db.execute(
        "INSERT OR REPLACE INTO scan(id, kind, began, ended, complete, manifest_digest) VALUES (?, ?, ?, ?, ?, ?)",
        (scan.id, scan.kind, scan.began, scan.ended, scan.complete, scan.manifest_digest),
    )


def captured_before(ledger: Ledger, moment: str) -> set[str]:
    """Memories that adapters captured before this moment and that no reading of Mem0 has shown yet."""
    if ledger.db.execute("SELECT 1 FROM scan WHERE kind = ? LIMIT 1", (LIVE,)).fetchone() is None:
        return set()
    rows = ledger.db.execute(
        "SELECT mem0_id FROM memory JOIN scan ON scan.id = memory.scan"
        " WHERE scan.kind = ? AND scan.ended < ? AND memory.tombstoned_at IS NULL AND NOT is_message",
        (LIVE, moment),
    )
    return {row["mem0_id"] for row in rows}


def last_plan(ledger: Ledger) -> tuple[int, str] | None:
    """Id and fingerprint of the newest finished plan."""
    row = ledger.db.execute("SELECT id, fingerprint FROM plan WHERE complete = 1 ORDER BY id DESC LIMIT 1").fetchone()
    return (row["id"], row["fingerprint"]) if row else None


def base_plan(ledger: Ledger, fence: str) -> tuple[int, str] | None:
    """The newest plan, and when the reading behind it began, once one was made of a reading after the fence."""
    row = ledger.db.execute(
        "SELECT (SELECT max(id) FROM plan WHERE complete = 1) AS number, max(scan.began) AS began FROM scan"
        " WHERE complete = 1 AND kind != ? AND began > ?",
        (LIVE, fence),
    ).fetchone()
    return None if row["number"] is None or row["began"] is None else (int(row["number"]), str(row["began"]))


def last_plan_and_scan(ledger: Ledger) -> tuple[int, str, str] | None:
    """Id, fingerprint and scan of the newest finished plan."""
    row = ledger.db.execute(
        "SELECT id, fingerprint, scan FROM plan WHERE complete = 1 ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return (row["id"], row["fingerprint"], row["scan"]) if row else None


def adopt_undecided(ledger: Ledger, plan: int) -> None:
    """Move what other plans left undecided into this plan."""
    ledger.db.execute(
        "UPDATE fact SET plan = ? WHERE state IN ('planned', 'intended', 'undecidable') AND plan != ?", (plan, plan)
    )


def set_fingerprint(ledger: Ledger, plan: int, fingerprint: str, *, scan: str | None = None) -> None:
    """Change what the plan was made of; the scan stays where none is given."""
    ledger.db.execute(
        "UPDATE plan SET fingerprint = ?, scan = coalesce(?, scan) WHERE id = ?", (fingerprint, scan, plan)
    )


def finish_plan(ledger: Ledger, plan: int, *, mapping_digest: str) -> None:
    """The merge is whole: a run may go on from it."""
    ledger.db.execute(
        "UPDATE plan SET complete = 1, (scopes, lanes) ="
        " (SELECT count(DISTINCT selector), count(DISTINCT lane) FROM fact WHERE plan = ?1 AND state != 'skipped')"
        " WHERE id = ?1",
        (plan,),
    )
    ledger.db.execute("UPDATE migration SET mapping_digest = ?", (mapping_digest,))


def sent(ledger: Ledger) -> Iterator[Sent]:
    """Every memory that may be in Spectron, and where; a page at a time, so that the ledger may change meanwhile."""
    last = ""
    while True:
        rows = ledger.db.execute(
            f"SELECT memory.mem0_id, record, selector, lane, tombstoned_at IS NULL AND moved_from IS NULL AS stands"
            f" FROM memory JOIN fact ON fact.mem0_id = memory.mem0_id AND state IN ({marks(SENT)})"
            " WHERE memory.mem0_id > ? GROUP BY memory.mem0_id ORDER BY memory.mem0_id LIMIT ?",
            (*SENT, last, _PAGE),
        ).fetchall()
        for row in rows:
            memory = Memory.from_json(json.loads(row["record"]))
            yield Sent(memory, row["selector"], row["lane"], bool(row["stands"]))
        if not rows:
            return
        last = rows[-1]["mem0_id"]


def relane(ledger: Ledger, mem0_id: str, lane: str) -> None:
    """A changed mapping may give the same scope another lane: what was sent bounds the order of that one now."""
    ledger.db.execute(
        f"UPDATE fact SET lane = ? WHERE mem0_id = ? AND state IN ({marks(SENT)})", (lane, mem0_id, *SENT)
    )


def mark_late(ledger: Ledger, plan: int, *, everything: bool = False) -> int:
    """Turn `full` facts that come too late for their lane into `none`: their text arrives, nothing is superseded.

    `everything`: what is still planned comes too late as a whole, because others write to Spectron by now.

    Too late is what lies below the lane's high-water, the greatest order key sent with `full`. Returns how
    many of the plan are late now.
    """
    db = ledger.db
    below = db.execute(
        "SELECT id, body FROM fact WHERE plan = ? AND state = 'planned' AND infer = 'full' AND (? OR order_key <"
        " (SELECT max(sent.order_key) FROM fact AS sent"
        "  WHERE sent.lane = fact.lane AND sent.infer = 'full' AND sent.sent_after IS NOT NULL))",
        (plan, everything),
    ).fetchall()
    for row in below:
        db.execute(
            "UPDATE fact SET infer = 'none', late = 1, body = ? WHERE id = ?",
            (_with_infer_none(row["body"]), row["id"]),
        )
    counted = db.execute("SELECT count(*) FROM fact WHERE plan = ? AND late = 1 AND state = 'planned'", (plan,))
    return int(counted.fetchone()[0])


def _with_infer_none(body: str) -> str:
    changed: Mapping[str, Json] = {**json.loads(body), "infer": "none"}
    return canonical_json(changed)
