"""Merges memories into a plan: decides which version of which memory is written, where, and in which order.

Only the ledger numbers versions: version n of a memory is its n-th different text, counted against the last one known
here. An edit of metadata makes no new version.
"""

from __future__ import annotations

import json

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.ledger import messages
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.memory_rows import MemoryRows, record_of
from spectron_migrate.ledger.new_memories import INSERT_FACT, INSERT_MEMORY, INSERT_VERSION, NewMemories
from spectron_migrate.ledger.pending import note_pending
from spectron_migrate.ledger.plan import LIVE, ScanRow, ScopeChange
from spectron_migrate.ledger.recency import LastText, Recency, RecencyRule
from spectron_migrate.ledger.schema import CARRIER, SENT
from spectron_migrate.records import ENTITY_IDS, NAMED, Memory, Placement, Skipped, canonical_json, digest

REPLACED = "replaced"
"""The reason of a fact that is skipped because the ledger has a newer text of the same memory."""
MOVED = "moved to another scope in Mem0 after it was sent"
_SENT = ", ".join(f"'{state}'" for state in SENT)
_SENT_OF_IT = (
    f"FROM version JOIN fact ON fact.id = version.id JOIN {CARRIER}"
    f" WHERE version.mem0_id = ? AND carrier.state IN ({_SENT})"
)
"""The facts with which a memory may be in Spectron: its own, and those of messages that contain it."""


class Merge:
    """Merges one memory after another into a plan. Call inside a transaction; nothing is sent here."""

    def __init__(
        self, ledger: Ledger, plan: int, scan: ScanRow, *, migration: str, same_mapping: bool, now: str
    ) -> None:
        """`now` stands for the start of the scan if it is not known (raw files).

        `same_mapping`: the mapping has not changed, so a memory whose scope differs from where it was sent was moved in
        Mem0.
        """
        self._same_mapping = same_mapping
        self.moved = 0
        self._db = ledger.db
        self._plan = plan
        self._scan = scan
        self._now = now
        self.scope_changes: list[ScopeChange] = []
        # A dump has each memory once, so an empty ledger needs no lookups. The outbox may have a memory several times.
        self._empty = scan.kind != LIVE and ledger.db.execute("SELECT 1 FROM memory").fetchone() is None
        self._scan_number = _scan_number(ledger, scan)
        self._rule = RecencyRule(ledger.db, scan, self._scan_number)
        self.left_out: list[str] = []
        """The first memories whose text is older than the ledger's."""
        self.waiting: list[Memory] = []
        """Memories that were captured after the scan began. The next scan decides about them."""
        self._rows = MemoryRows(ledger, plan, scan, self._scan_number, migration=migration, now=now)
        self._new = NewMemories(ledger.db)

    def add(
        self,
        memory: Memory,
        placed: Placement | Skipped,
        *,
        seen_again: str | None = None,
        message: str | None = None,
        is_newer: bool = False,
    ) -> None:
        """Plan the memory, or skip it with a reason. A text that the ledger knows keeps its version.

        In an empty ledger memories are inserted many at once: call `flush` after the last one. `seen_again`: when the
        scan began that found the memory after an earlier scan had missed it. `message`: the fact of the message whose
        turn contains a new text. `is_newer`: a person said that the text is newer.
        """
        text_digest = digest(memory.memory)
        if self._empty:
            self._new.add(self._rows.of_memory(memory), *self._rows.of_version(memory, text_digest, placed, 1))
            return
        last = self._last(memory.id)
        if last is not None and not is_newer and self._is_gone(memory, last, seen_again):
            self._skip_gone(memory.id)  # an older reading cannot bring back a memory that a newer one missed
            return
        if last is not None and last["number"] > 1:
            self._adopt_doubts(memory.id)
        if last is not None and last["digest"] != text_digest:
            recency = "newer" if is_newer else self._rule.compare(memory.text_at, _last_text(last))
            if recency != "newer":
                self._leave_out(memory, last, recency)
                return
            is_newer = True
        moved = isinstance(placed, Placement) and self._moves(memory.id, placed)
        self._remember(
            memory,
            moved_from=self._owners_when_sent(memory.id) if moved else None,
            is_newer=is_newer or (last is not None and self._shows_later(last)),
        )
        if moved:
            placed = Skipped(memory.id, MOVED)
        if last is None:
            self._insert(memory, text_digest, placed, version=1, message=message)
        elif last["digest"] == text_digest:
            self._again(last, memory, placed)
        else:
            self._adopt_doubts(memory.id)
            self._insert(memory, text_digest, placed, version=last["number"] + 1, message=message)
            self._db.execute(
                "UPDATE fact SET state = 'skipped', reason = ? WHERE id = ? AND state = 'planned'",
                (f"{REPLACED} by version {last['number'] + 1}", last["id"]),
            )
            messages.overtake(self._db, memory.id, self._plan, self._scan.began or self._now)

    def flush(self) -> None:
        """Write the rows that `add` has held back."""
        self._new.finish()

    def _shows_later(self, last: ResultRow) -> bool:
        """Whether this reading is newer than the last one of the memory, or lifts its tombstone."""
        return last["tombstoned_at"] is not None or self._rule.descends_from(last["seen_in"])

    def _leave_out(self, memory: Memory, last: ResultRow, recency: Recency) -> None:
        if recency == "unknown" and self._note_pending(memory, last):
            return
        if recency == "waits":
            self.waiting.append(memory)
            return
        if len(self.left_out) < NAMED:
            self.left_out.append(memory.id)
        self._db.execute("UPDATE plan SET replaced = replaced + 1 WHERE id = ?", (self._plan,))

    def _note_pending(self, memory: Memory, last: ResultRow) -> bool:
        """Keep the text as pending; False if a person has already said that it is older."""
        if self._scan_number is None:
            return False
        return note_pending(
            self._db,
            memory,
            record_of(memory),
            self._scan_number,
            last["number"],
            self._plan,
            descends_from=self._rule.is_same_or_descends_from,
        )

    def add_message(self, message: Memory, placed: Placement) -> None:
        """Plan a captured message in place of the memories that Mem0 made of it; their records name the message."""
        if self._last(message.id) is None:
            self._remember(message)
            self._db.execute("UPDATE memory SET is_message = 1 WHERE mem0_id = ?", (message.id,))
            self._insert(message, digest(message.memory), placed, version=1)

    def tombstone(self, mem0_id: str, at: str) -> None:
        """Record that Mem0 has not had the memory since `at`, so that its planned texts are not sent.

        Does nothing if a scan that began later found the memory.
        """
        known = self._db.execute("SELECT scan FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
        is_newer = known is not None and self._rule.descends_from(known["scan"])
        changed = self._db.execute(
            "UPDATE memory SET tombstoned_at = coalesce(tombstoned_at, ?),"
            " tombstoned_by = CASE WHEN tombstoned_at IS NULL THEN ? ELSE tombstoned_by END WHERE mem0_id = ?"
            " AND (? = 1 OR coalesce((SELECT began FROM scan WHERE scan.no = memory.scan), '') < ?)",
            (at, self._scan_number, mem0_id, is_newer, at),
        )
        if changed.rowcount:
            self._skip_gone(mem0_id)
            messages.overtake(self._db, mem0_id, self._plan, at)

    def _is_gone(self, memory: Memory, last: ResultRow, seen_again: str | None) -> bool:
        """Whether the memory has a tombstone that this dump does not lift.

        A tombstone that a scan set is lifted only by a dump that descends from that scan's dump. Along a line of
        descent the times of dumps always rise, even if the clock is set back.
        """
        if last["tombstoned_at"] is None:
            return False
        if max(self._scan.began or "", seen_again or "") <= str(last["tombstoned_at"]):
            return True
        stone = last["tombstoned_by"]
        if self._scan.kind == LIVE or stone is None or last["stone_kind"] == LIVE:
            return False
        if self._rule.is_same_or_descends_from(stone):
            return False
        self._note_pending(memory, last)
        return True

    def _skip_gone(self, mem0_id: str) -> None:
        self._db.execute(
            "UPDATE fact SET state = 'skipped', reason = ? WHERE state = 'planned'"
            " AND id IN (SELECT id FROM version WHERE mem0_id = ?)",
            (messages.DELETED, mem0_id),
        )
        self._db.execute(
            "UPDATE fact SET plan = ? WHERE id = (SELECT id FROM memory JOIN version"
            " ON version.mem0_id = memory.mem0_id AND number = newest_version WHERE memory.mem0_id = ?)",
            (self._plan, mem0_id),
        )

    def _owners_when_sent(self, mem0_id: str) -> str | None:
        """The ids under which the memory is in Spectron.

        Their owners still find it there, although it now belongs to somebody else.
        """
        row = self._db.execute("SELECT record, moved_from FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
        if row is None or row["moved_from"] is not None:
            return row["moved_from"] if row is not None else None
        record = json.loads(row["record"])
        return canonical_json({name: record[name] for name in ENTITY_IDS if record.get(name)})

    def _moves(self, mem0_id: str, placed: Placement) -> bool:
        """Whether a version may be in Spectron under another selector. Then the memory is not written again."""
        moved = self._db.execute(
            f"SELECT carrier.selector {_SENT_OF_IT} AND carrier.selector != ? LIMIT 1",
            (mem0_id, self._rows.selector(placed.selector)),
        ).fetchone()
        if moved is None:
            return False
        self.moved += 1
        if not self._same_mapping:
            sent_to = self._db.execute("SELECT text FROM selector WHERE no = ?", (moved["selector"],)).fetchone()
            self.scope_changes.append(ScopeChange(mem0_id, sent_to["text"], canonical_json(placed.selector)))
        return True

    def _adopt_doubts(self, mem0_id: str) -> None:
        """Move undecided versions of the memory into this plan, which then decides them."""
        self._db.execute(
            "UPDATE fact SET plan = ? WHERE state IN ('intended', 'undecidable')"
            " AND id IN (SELECT id FROM version WHERE mem0_id = ?)",
            (self._plan, mem0_id),
        )

    def _again(self, last: ResultRow, memory: Memory, placed: Placement | Skipped) -> None:
        message = last["message"]
        if message is not None:
            selector = self._rows.selector(placed.selector) if isinstance(placed, Placement) else None
            messages.part(self._db, message, selector, self._plan)
        if message is not None and messages.is_on_its_way(self._db, message):
            messages.returned(self._db, message)
        elif last["state"] not in SENT:
            return self._replan(last, memory, placed)
        self._db.execute("UPDATE fact SET plan = ? WHERE id = ?", (self._plan, last["id"]))
        return None

    def _replan(self, last: ResultRow, memory: Memory, placed: Placement | Skipped) -> None:
        """Plan the newest version again, with the current mapping, because it is not in Spectron."""
        text, fact = self._rows.of_fact(memory, last["digest"], placed, last["number"])
        if last["state"] == "refused" and isinstance(placed, Placement):
            # A refused fact stays refused, with its key, until somebody retries it.
            fact.update(state="refused", reason=last["reason"], key=last["key"])
        self._db.execute("UPDATE version SET text = ?, text_at = ? WHERE id = ?", (text, memory.text_at, last["id"]))
        self._db.execute(
            f"UPDATE fact SET late = 0, message = NULL, {', '.join(f'{name} = ?' for name in fact)} WHERE id = ?",
            (*fact.values(), last["id"]),
        )

    def _last(self, mem0_id: str) -> ResultRow | None:
        row: ResultRow | None = self._db.execute(
            "SELECT version.id, number, version.digest, text_at, recorded_at, state, reason, key, message,"
            " tombstoned_at, tombstoned_by, stone.kind AS stone_kind, read.kind AS text_kind,"
            " seen.no AS seen_in, seen.kind AS seen_kind, seen.ended AS seen_until"
            " FROM memory JOIN version ON version.mem0_id = memory.mem0_id AND number = newest_version"
            " JOIN fact ON fact.id = version.id JOIN scan AS read ON read.no = version.scan"
            " JOIN scan AS seen ON seen.no = memory.scan LEFT JOIN scan AS stone ON stone.no = tombstoned_by"
            " WHERE memory.mem0_id = ?",
            (mem0_id,),
        ).fetchone()
        return row

    def _remember(self, memory: Memory, *, moved_from: str | None = None, is_newer: bool = False) -> None:
        """Store the memory's record, unless it comes from an older reading."""
        # The memory was seen again, so its tombstone is lifted.
        self._db.execute(
            f"{INSERT_MEMORY}"
            " ON CONFLICT(mem0_id) DO UPDATE SET record = excluded.record, digest = excluded.digest,"
            " scan = excluded.scan, mem0_state = excluded.mem0_state, expires = excluded.expires,"
            " moved_from = excluded.moved_from, tombstoned_at = NULL, tombstoned_by = NULL"
            " WHERE ? = 1 OR coalesce((SELECT began FROM scan WHERE no = excluded.scan), '')"
            " >= coalesce((SELECT began FROM scan WHERE no = memory.scan), '')",
            (*self._rows.of_memory(memory, moved_from), is_newer),
        )
        if is_newer:
            self._db.execute("DELETE FROM pending WHERE mem0_id = ?", (memory.id,))

    def _insert(
        self,
        memory: Memory,
        text_digest: str,
        placed: Placement | Skipped,
        *,
        version: int,
        message: str | None = None,
    ) -> None:
        version_row, fact_row = self._rows.of_version(memory, text_digest, placed, version, message)
        self._db.execute(INSERT_VERSION, version_row)
        self._db.execute(INSERT_FACT, fact_row)
        if version > 1:
            self._db.execute("UPDATE memory SET newest_version = ? WHERE mem0_id = ?", (version, memory.id))


def _last_text(last: ResultRow) -> LastText:
    return LastText(
        text_at=last["text_at"],
        recorded_at=last["recorded_at"],
        is_captured=last["text_kind"] == LIVE,
        seen_in=last["seen_in"],
        captured_at=last["seen_until"] if last["seen_kind"] == LIVE else None,
    )


def _scan_number(ledger: Ledger, scan: ScanRow) -> int | None:
    """The scan's number in the ledger; None if it is not recorded yet (tombstones are set before that)."""
    row = ledger.db.execute("SELECT no FROM scan WHERE id = ?", (scan.id,)).fetchone()
    return int(row["no"]) if row else None
