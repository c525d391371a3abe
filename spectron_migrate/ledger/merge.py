"""Merging memories into a plan: which version of which memory is to be written, where, and in which order.

Only the ledger numbers versions: version n of a memory is its n-th different text, counted against the
last one known here. A metadata edit is no new version.
"""

from __future__ import annotations

import json
from sqlite3 import Row

from spectron_migrate.ledger import messages
from spectron_migrate.ledger.erasing import erased_times
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.plan import LIVE, ScanRow, ScopeChange
from spectron_migrate.ledger.schema import SENT
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
MOVED = "moved to another scope in Mem0 after it was sent"
ELSEWHERE = "in the lanes of another shard now"
_SENT = ", ".join(f"'{state}'" for state in SENT)
_ITSELF_OR_ITS_MESSAGES = "SELECT ?1 UNION ALL SELECT message FROM fact AS made WHERE made.mem0_id = ?1"


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
        # A dump names each memory once, so in an empty ledger there is nothing to look up. Captures do not.
        self._empty = scan.kind != LIVE and ledger.db.execute("SELECT 1 FROM memory").fetchone() is None

    def add(
        self,
        memory: Memory,
        placed: Placement | Skipped,
        *,
        seen_again: str | None = None,
        message: str | None = None,
    ) -> None:
        """Plan the memory, or skip it by name; a text that is known already stays as it is.

        `seen_again`: when a scan began that found it after it had been missed. `message`: in whose turn a new text is.
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
            self._insert(memory, text_digest, placed, version=1, message=message)
        elif last["text_digest"] == text_digest:
            self._again(last, memory, placed)
        elif self._newer(memory, last):
            self._adopt_doubts(memory.id)
            self._insert(memory, text_digest, placed, version=last["version"] + 1, message=message)
            self._db.execute(
                "UPDATE fact SET state = 'skipped', reason = ? WHERE id = ? AND state = 'planned'",
                (f"{REPLACED} by version {last['version'] + 1}", last["id"]),
            )
            messages.overtake(self._db, memory.id, self._plan, self._scan.began or self._now)
        else:
            self._db.execute("UPDATE plan SET replaced = replaced + 1 WHERE id = ?", (self._plan,))

    def add_message(self, message: Memory, placed: Placement) -> None:
        """Plan what the application said, in place of the memories that Mem0 made of it: they name it."""
        if self._last(message.id) is None:
            self._remember(message)
            self._db.execute("UPDATE memory SET is_message = 1 WHERE mem0_id = ?", (message.id,))
            self._insert(message, digest(message.memory), placed, version=1)

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
            messages.overtake(self._db, mem0_id, self._plan, at)

    def _is_gone(self, mem0_id: str, seen_again: str | None) -> bool:
        """Whether a tombstone stands that is newer than what this dump knows of the memory."""
        row = self._db.execute("SELECT tombstoned_at FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
        if row is None or row["tombstoned_at"] is None:
            return False
        return max(self._scan.began or "", seen_again or "") <= str(row["tombstoned_at"])

    def _skip_gone(self, mem0_id: str) -> None:
        self._db.execute(
            "UPDATE fact SET state = 'skipped', reason = ? WHERE mem0_id = ? AND state = 'planned'",
            (messages.DELETED, mem0_id),
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
        sent = self._db.execute(
            f"SELECT 1 FROM fact WHERE mem0_id IN ({_ITSELF_OR_ITS_MESSAGES}) AND state IN ({_SENT})", (mem0_id,)
        )
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
            f"SELECT selector FROM fact WHERE mem0_id IN ({_ITSELF_OR_ITS_MESSAGES}) AND selector != ?2"
            f" AND state IN ({_SENT})",
            (mem0_id, now),
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
        if last["message"] is not None:
            where = canonical_json(placed.selector) if isinstance(placed, Placement) else ""
            messages.part(self._db, last["message"], where, self._plan)
        if last["message"] is not None and messages.carries(self._db, last["message"]):
            messages.returned(self._db, last["message"])
        elif last["state"] not in SENT:
            return self._replan(last, memory, placed)
        self._db.execute("UPDATE fact SET plan = ? WHERE id = ?", (self._plan, last["id"]))
        return None

    def _replan(self, last: Row, memory: Memory, placed: Placement | Skipped) -> None:
        """Nothing of it is in Spectron: the mapping of now holds, whatever an earlier one said."""
        row = self._row(memory, last["text_digest"], placed, last["version"])
        if last["state"] == "refused" and isinstance(placed, Placement):
            # Refused by the server it stays, until somebody asks for another try; and it keeps its key.
            row.update(state="refused", reason=last["reason"], key=last["key"])
        names = ("lane", "order_key", "selector", "run", "infer", "body", "key", "state", "reason", "text_at")
        self._db.execute(
            f"UPDATE fact SET plan = ?, late = 0, message = NULL, {', '.join(f'{name} = ?' for name in names)}"
            " WHERE id = ?",
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
            "SELECT id, version, text_digest, text_at, recorded_at, state, reason, key, message FROM fact"
            " WHERE mem0_id = ? ORDER BY version DESC LIMIT 1",
            (mem0_id,),
        ).fetchone()
        return row

    def _remember(self, memory: Memory, *, moved_from: str | None = None) -> None:
        record = _record(memory)
        # Seen again: a tombstone falls. An older reading tells nothing new.
        self._db.execute(
            "INSERT INTO memory(mem0_id, record, digest, scan, expires, moved_from) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(mem0_id) DO UPDATE SET record = excluded.record, digest = excluded.digest,"
            " scan = excluded.scan, expires = excluded.expires, moved_from = excluded.moved_from, tombstoned_at = NULL"
            " WHERE coalesce((SELECT began FROM scan WHERE id = excluded.scan), '')"
            " >= coalesce((SELECT began FROM scan WHERE id = memory.scan), '')",
            (memory.id, record, digest(record), self._scan.id, memory.expiration_date, moved_from),
        )

    def _insert(
        self,
        memory: Memory,
        text_digest: str,
        placed: Placement | Skipped,
        *,
        version: int,
        message: str | None = None,
    ) -> None:
        row = self._row(memory, text_digest, placed, version)
        if message is not None and row["state"] == "planned":
            row |= {"state": "skipped", "reason": messages.CARRIED, "message": message}
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


def _record(memory: Memory) -> str:
    """A memory as the ledger keeps it; escaped, because a lone surrogate in some field is no reason to lose the row."""
    return _ESCAPED.encode(memory.to_json())


def record_digest(memory: Memory) -> str:
    """Differs whenever anything that Mem0 says of the memory does."""
    return digest(_record(memory))


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
