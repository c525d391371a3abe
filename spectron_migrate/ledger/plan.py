"""Merging memories into the ledger: which version of which memory is to be written, where, and in which order.

Only the ledger numbers versions: version n of a memory is its n-th different text, counted against the
last one known here. A metadata edit is no new version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from sqlite3 import Row

from spectron_migrate.ledger.erasing import erased_times
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import SENT, marks
from spectron_migrate.records import (
    ENTITY_IDS,
    Json,
    Memory,
    Placement,
    Skipped,
    canonical_json,
    digest,
    has_time,
    order_key,
)

REPLACED = "replaced"
"""Skipped because the ledger has a newer text of the same memory."""
DELETED = "deleted in Mem0"
MOVED = "moved to another scope in Mem0 after it was sent"
ELSEWHERE = "in the lanes of another shard now"
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
        " WHERE scan.kind = ? AND scan.ended < ? AND memory.tombstoned_at IS NULL",
        (LIVE, moment),
    )
    return {row["mem0_id"] for row in rows}


def last_plan(ledger: Ledger) -> tuple[int, str] | None:
    """Id and fingerprint of the newest finished plan."""
    row = ledger.db.execute("SELECT id, fingerprint FROM plan WHERE complete = 1 ORDER BY id DESC LIMIT 1").fetchone()
    return (row["id"], row["fingerprint"]) if row else None


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


class Merge:
    """Merges one memory after the other into a plan. Call inside a transaction; nothing is sent here."""

    def __init__(
        self, ledger: Ledger, plan: int, scan: ScanRow, *, migration: str, same_mapping: bool, now: str
    ) -> None:
        """`now` stands in for the start of the scan where a raw file has none.

        `same_mapping`: a memory whose scope differs from where it was sent was moved in Mem0, not by the mapping.
        """
        self._same_mapping = same_mapping
        self.moved = 0
        self._db = ledger.db
        self._plan = plan
        self._scan = scan
        self._migration = migration
        self._now = now
        self.scope_changes: list[ScopeChange] = []
        # The server may hold the keys of what was erased for a day: they would answer instead of writing.
        erased = erased_times(ledger)
        self._erased = (f"erased {erased}",) if erased else ()
        # A dump names each memory once, so in an empty ledger there is nothing to look up.
        self._empty = ledger.db.execute("SELECT 1 FROM memory").fetchone() is None

    def add(self, memory: Memory, placed: Placement | Skipped, *, seen_again: str | None = None) -> None:
        """Plan the memory, or skip it by name; a text that is known already stays as it is.

        `seen_again`: when a scan began that found it after it had been missed.
        """
        text_digest = digest(memory.memory)
        if self._empty:
            self._remember(memory)
            self._insert(memory, text_digest, placed, version=1)
            return
        last = self._last(memory.id)
        if self._is_gone(memory.id, seen_again):
            self._skip_gone(memory.id)  # an older reading cannot bring back what a newer one missed
            return
        moved = self._has_moved(memory.id, placed)
        self._remember(memory, moved_from=self._owners_when_sent(memory.id) if moved else None)
        if moved and isinstance(placed, Placement):
            placed = Skipped(memory.id, MOVED)
        if last is not None and last["version"] > 1:
            self._adopt_doubts(memory.id)
        if last is None:
            self._insert(memory, text_digest, placed, version=1)
        elif last["text_digest"] == text_digest:
            self._again(last, memory, placed)
        elif self._newer(memory, last):
            self._adopt_doubts(memory.id)
            self._insert(memory, text_digest, placed, version=last["version"] + 1)
            self._db.execute(
                "UPDATE fact SET state = 'skipped', reason = ? WHERE id = ? AND state = 'planned'",
                (f"{REPLACED} by version {last['version'] + 1}", last["id"]),
            )
        else:
            self._db.execute("UPDATE plan SET replaced = replaced + 1 WHERE id = ?", (self._plan,))

    def tombstone(self, mem0_id: str, at: str) -> None:
        """Mem0 no longer has the memory since `at`: what was not sent of it never will be.

        A reading that began later and saw the memory knows better.
        """
        changed = self._db.execute(
            "UPDATE memory SET tombstoned_at = coalesce(tombstoned_at, ?1) WHERE mem0_id = ?2"
            " AND coalesce((SELECT began FROM scan WHERE scan.id = memory.scan), '') < ?1",
            (at, mem0_id),
        )
        if changed.rowcount:
            self._skip_gone(mem0_id)

    def _is_gone(self, mem0_id: str, seen_again: str | None) -> bool:
        """Whether a tombstone stands that is newer than what this dump knows of the memory."""
        row = self._db.execute("SELECT tombstoned_at FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
        if row is None or row["tombstoned_at"] is None:
            return False
        return max(self._scan.began or "", seen_again or "") <= str(row["tombstoned_at"])

    def _skip_gone(self, mem0_id: str) -> None:
        self._db.execute(
            "UPDATE fact SET state = 'skipped', reason = ? WHERE mem0_id = ? AND state = 'planned'",
            (DELETED, mem0_id),
        )
        self._db.execute(
            "UPDATE fact SET plan = ?1 WHERE mem0_id = ?2 AND version ="
            " (SELECT max(version) FROM fact WHERE mem0_id = ?2)",
            (self._plan, mem0_id),
        )

    def _has_moved(self, mem0_id: str, placed: Placement | Skipped) -> bool:
        """Whether it is in Spectron where Mem0 no longer has it."""
        if isinstance(placed, Placement):
            return self._moves(mem0_id, placed)
        if placed.reason not in (MOVED, ELSEWHERE):
            return False
        sent = self._db.execute(f"SELECT 1 FROM fact WHERE mem0_id = ? AND state IN ({marks(SENT)})", (mem0_id, *SENT))
        return sent.fetchone() is not None

    def _owners_when_sent(self, mem0_id: str) -> str | None:
        """The ids under which it is in Spectron; they see there what is another's by now."""
        row = self._db.execute("SELECT record, moved_from FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
        if row is None or row["moved_from"] is not None:
            return row["moved_from"] if row is not None else None
        record = json.loads(row["record"])
        return canonical_json({name: record[name] for name in ENTITY_IDS if record.get(name)})

    def _moves(self, mem0_id: str, placed: Placement) -> bool:
        """Whether this would put a version elsewhere than one that may be in Spectron already: none may be."""
        now = canonical_json(placed.selector)
        moved = self._db.execute(
            f"SELECT selector FROM fact WHERE mem0_id = ? AND selector != ? AND state IN ({marks(SENT)})",
            (mem0_id, now, *SENT),
        ).fetchone()
        if moved is None:
            return False
        self.moved += 1
        if not self._same_mapping:
            self.scope_changes.append(ScopeChange(mem0_id, moved["selector"], now))
        return True

    def _adopt_doubts(self, mem0_id: str) -> None:
        """What is undecided about an earlier text is this plan's to decide."""
        self._db.execute(
            "UPDATE fact SET plan = ? WHERE mem0_id = ? AND state IN ('intended', 'undecidable')", (self._plan, mem0_id)
        )

    def _again(self, last: Row, memory: Memory, placed: Placement | Skipped) -> None:
        if last["state"] in SENT:
            self._db.execute("UPDATE fact SET plan = ? WHERE id = ?", (self._plan, last["id"]))
        else:
            self._replan(last, memory, placed)

    def _replan(self, last: Row, memory: Memory, placed: Placement | Skipped) -> None:
        """Nothing of it is in Spectron: the mapping of now holds, whatever an earlier one said."""
        row = self._row(memory, last["text_digest"], placed, last["version"])
        if last["state"] == "refused" and isinstance(placed, Placement):
            # Refused by the server it stays, until somebody asks for another try; and it keeps its key.
            row.update(state="refused", reason=last["reason"], key=last["key"])
        names = ("lane", "order_key", "selector", "run", "infer", "body", "key", "state", "reason", "text_at")
        self._db.execute(
            f"UPDATE fact SET plan = ?, late = 0, {', '.join(f'{name} = ?' for name in names)} WHERE id = ?",
            (self._plan, *(row[name] for name in names), last["id"]),
        )

    def _newer(self, memory: Memory, last: Row) -> bool:
        """Whether this text came after the one the ledger has.

        By its own time; or because the scan that read it began after the other was recorded. A raw file
        tells no scan time, so an old copy of it can never win by being read late.
        """
        if memory.text_at is not None and memory.text_at > (last["text_at"] or ""):
            return True
        return self._scan.began is not None and self._scan.began > last["recorded_at"]

    def _last(self, mem0_id: str) -> Row | None:
        row: Row | None = self._db.execute(
            "SELECT id, version, text_digest, text_at, recorded_at, state, reason, key FROM fact"
            " WHERE mem0_id = ? ORDER BY version DESC LIMIT 1",
            (mem0_id,),
        ).fetchone()
        return row

    def _remember(self, memory: Memory, *, moved_from: str | None = None) -> None:
        record = spelled(memory)
        # Seen again: a tombstone falls. An older reading tells nothing new.
        self._db.execute(
            "INSERT INTO memory(mem0_id, record, digest, scan, expires, moved_from) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(mem0_id) DO UPDATE SET record = excluded.record, digest = excluded.digest,"
            " scan = excluded.scan, expires = excluded.expires, moved_from = excluded.moved_from, tombstoned_at = NULL"
            " WHERE coalesce((SELECT began FROM scan WHERE id = excluded.scan), '')"
            " >= coalesce((SELECT began FROM scan WHERE id = memory.scan), '')",
            (memory.id, record, digest(record), self._scan.id, memory.expiration_date, moved_from),
        )

    def _insert(self, memory: Memory, text_digest: str, placed: Placement | Skipped, *, version: int) -> None:
        row = self._row(memory, text_digest, placed, version)
        self._db.execute(
            f"INSERT INTO fact({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
        )

    def _row(self, memory: Memory, text_digest: str, placed: Placement | Skipped, version: int) -> dict[str, Json]:
        row: dict[str, Json] = {
            "mem0_id": memory.id,
            "version": version,
            "text_digest": text_digest,
            "text_at": memory.text_at,
            "scan": self._scan.id,
            "recorded_at": self._now,
            "plan": self._plan,
            "order_key": order_key(memory, self._scan.began or self._now),
        }
        if isinstance(placed, Skipped):
            nowhere = {"lane": "", "selector": "[]", "run": None, "infer": "none", "body": "", "key": ""}
            return {**row, **nowhere, "state": "skipped", "reason": placed.reason}
        body = fact_body(memory, placed)
        return {
            **row,
            "lane": placed.lane,
            "selector": canonical_json(placed.selector),
            "run": placed.run,
            "infer": body["infer"],
            "body": canonical_json(body),
            "key": digest(self._migration, memory.id, str(version), text_digest, placed.lane, *self._erased),
            "state": "planned",
            "reason": None,
        }


def spelled(memory: Memory) -> str:
    """A record as the ledger keeps it; escaped, because a lone surrogate in some field is no reason to lose the row."""
    return _ESCAPED.encode(memory.to_json())


_ESCAPED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def fact_body(memory: Memory, placed: Placement) -> dict[str, Json]:
    """What POST /facts is told, but for the session.

    A memory without a time goes in with `infer: none`, because it may not supersede anything.
    """
    body: dict[str, Json] = {
        "text": memory.memory,
        "infer": placed.infer if has_time(memory) else "none",
        "scopes": [list(clause) for clause in placed.selector],
        "role": "assistant" if memory.role == "assistant" else "user",
        "memory_category": placed.category,
    }
    if memory.text_at is not None and has_time(memory):
        body["observed_at"] = memory.text_at
    if placed.labels:
        body["labels"] = list(placed.labels)
    return body


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
