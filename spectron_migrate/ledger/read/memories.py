"""What the ledger knows of one memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.messages import FACTS
from spectron_migrate.ledger.plan import LIVE
from spectron_migrate.ledger.schema import SENT, STORED, marks
from spectron_migrate.records import Memory


@dataclass(frozen=True, slots=True)
class LastVersion:
    """The newest text of a memory that the ledger knows, and what became of it."""

    version: int
    text_digest: str
    text_at: str | None
    recorded_at: str
    state: str
    reason: str | None
    selector: str
    """Canonical JSON."""
    tombstoned_at: str | None
    """Since when Mem0 no longer has it."""
    any_stored: bool
    """Whether any version of it is stored, this one or an older one."""
    message: str | None = None
    """The message whose turn holds it; the state is that one's then."""


def last_version(ledger: Ledger, mem0_id: str) -> LastVersion | None:
    """The newest text of one memory; None where the ledger does not know the memory."""
    row = ledger.db.execute(
        "SELECT fact.version, fact.text_digest, fact.text_at, fact.recorded_at, fact.reason, fact.selector,"
        f" fact.message, coalesce(sent.state, fact.state) AS state, tombstoned_at, EXISTS (SELECT 1 FROM {FACTS}"
        f"  WHERE made.mem0_id = memory.mem0_id AND fact.state IN ({marks(STORED)})) AS any_stored"
        " FROM fact JOIN memory USING (mem0_id) LEFT JOIN fact AS sent ON sent.mem0_id = fact.message"
        " WHERE fact.mem0_id = ? ORDER BY fact.version DESC LIMIT 1",
        (*STORED, mem0_id),
    ).fetchone()
    if row is None:
        return None
    values = {name: row[name] for name in _LAST}
    return LastVersion(**values, any_stored=bool(row["any_stored"]))


_LAST = ("version", "text_digest", "text_at", "recorded_at", "state", "reason", "selector", "tombstoned_at", "message")


def is_known(ledger: Ledger, mem0_id: str) -> bool:
    """Whether the memory was ever planned or skipped."""
    return ledger.db.execute("SELECT 1 FROM fact WHERE mem0_id = ?", (mem0_id,)).fetchone() is not None


def was_sent(ledger: Ledger, mem0_id: str) -> bool:
    """Whether any version of the memory is, or may be, in Spectron."""
    row = ledger.db.execute(f"SELECT 1 FROM fact WHERE mem0_id = ? AND state IN ({marks(SENT)})", (mem0_id, *SENT))
    return row.fetchone() is not None


def memories(ledger: Ledger) -> Iterator[tuple[str, bool]]:
    """Every memory that was ever planned, by id, and whether it has a tombstone."""
    rows = ledger.db.execute("SELECT mem0_id, tombstoned_at IS NOT NULL AS gone FROM memory ORDER BY mem0_id")
    return ((row["mem0_id"], bool(row["gone"])) for row in rows)


def memory_of(ledger: Ledger, mem0_id: str) -> Memory | None:
    """The memory as the newest scan gave it."""
    row = ledger.db.execute("SELECT record FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    return Memory.from_json(json.loads(row["record"])) if row else None


@dataclass(frozen=True, slots=True)
class KnownDigests:
    """What tells whether a memory changed since the ledger last saw it."""

    record: str
    text: str | None
    """Of the newest version."""
    deleted: bool


def known_digests(ledger: Ledger, mem0_id: str) -> KnownDigests | None:
    """None where the ledger does not know the memory."""
    row = ledger.db.execute(
        "SELECT digest, tombstoned_at, (SELECT text_digest FROM fact WHERE fact.mem0_id = memory.mem0_id"
        " ORDER BY version DESC LIMIT 1) AS text FROM memory WHERE mem0_id = ?",
        (mem0_id,),
    ).fetchone()
    return KnownDigests(row["digest"], row["text"], row["tombstoned_at"] is not None) if row else None


def was_read_after(ledger: Ledger, mem0_id: str, moment: str) -> bool:
    """Whether the newest text of the memory came from a reading of Mem0 that began after this moment."""
    found = ledger.db.execute(
        "SELECT scan.began FROM fact JOIN scan ON scan.id = fact.scan WHERE fact.mem0_id = ? AND scan.kind != ?"
        " AND fact.version = (SELECT max(version) FROM fact AS other WHERE other.mem0_id = fact.mem0_id)",
        (mem0_id, LIVE),
    ).fetchone()
    return found is not None and found["began"] is not None and moment < found["began"]
