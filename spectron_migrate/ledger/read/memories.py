"""What the ledger knows about one memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.plan import LIVE
from spectron_migrate.ledger.schema import CARRIER, FACTS, STORED, marks
from spectron_migrate.records import Filters, Memory, canonical_json


@dataclass(frozen=True, slots=True)
class LastVersion:
    """The newest text that the ledger knows of a memory, and what became of it."""

    version: int
    text: str
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
    """Whether any version of the memory is stored, this one or an older one."""
    message: str | None = None
    """The message whose turn contains the text; `state` is then the message's."""


def knows_owners(ledger: Ledger, filters: Filters) -> bool:
    """Whether the ledger has a memory that the filters admit. Reads every record, so call it rarely."""
    by_field = (("user_id", filters.users), ("agent_id", filters.agents), ("run_id", filters.runs))
    conditions, named = [], []
    for field, ids in by_field:
        if ids:
            conditions.append(f"({' OR '.join(['replace(record, ?, ?) != record'] * len(ids))})")
            named += [word for each in sorted(ids) for word in (f'"{field}":{canonical_json(each)}', "")]
    statement = f"SELECT 1 FROM memory WHERE {' AND '.join(conditions) or '1 = 1'} LIMIT 1"
    return ledger.db.execute(statement, named).fetchone() is not None


AT_ONCE = 500
"""The most memories that one query asks for."""


def last_version(ledger: Ledger, mem0_id: str) -> LastVersion | None:
    """The newest text of one memory; None if the ledger does not know the memory."""
    return last_versions(ledger, [mem0_id]).get(mem0_id)


def last_versions(ledger: Ledger, mem0_ids: Sequence[str]) -> dict[str, LastVersion]:
    """The newest text that the ledger knows of each of these memories, at most `AT_ONCE`."""
    is_stored = f"carrier.state IN ({marks(STORED)})"
    rows = ledger.db.execute(
        "SELECT memory.mem0_id, version.number, version.text, version.digest, version.text_at, version.recorded_at,"
        " carrier.state, fact.reason, coalesce(selector.text, '[]') AS selector, tombstoned_at,"
        f" {is_stored} OR EXISTS (SELECT 1 {_ALL} WHERE own.mem0_id = memory.mem0_id AND {is_stored}) AS stored,"
        f" whole.mem0_id AS message FROM {FACTS} JOIN {CARRIER} LEFT JOIN selector ON selector.no = fact.selector"
        " LEFT JOIN version AS whole ON whole.id = fact.message"
        f" WHERE memory.mem0_id IN ({marks(mem0_ids)}) AND version.number = newest_version",
        (*STORED, *STORED, *mem0_ids),
    )
    found = {}
    for mem0_id, number, text, text_digest, text_at, recorded_at, state, reason, *others in rows:
        selector, tombstoned_at, is_anywhere, message = others
        found[mem0_id] = LastVersion(
            number,
            text,
            text_digest,
            text_at,
            recorded_at,
            state,
            reason,
            selector,
            tombstoned_at,
            any_stored=bool(is_anywhere),
            message=message,
        )
    return found


class NewestText(NamedTuple):
    """The newest text that the ledger knows of a memory, with only what a comparison of all memories needs."""

    digest: str
    state: str
    """The state of the fact that carries it."""
    tombstoned_at: str | None


def newest_texts(ledger: Ledger, mem0_ids: Sequence[str]) -> dict[str, NewestText]:
    """The newest text of each of these memories, at most `AT_ONCE`, that the ledger knows."""
    rows = ledger.db.execute(
        f"SELECT memory.mem0_id, version.digest, carrier.state, tombstoned_at FROM {FACTS} JOIN {CARRIER}"
        f" WHERE memory.mem0_id IN ({marks(mem0_ids)}) AND version.number = newest_version",
        tuple(mem0_ids),
    )
    return {mem0_id: NewestText(*others) for mem0_id, *others in rows}


_ALL = f"FROM version AS own JOIN fact ON fact.id = own.id JOIN {CARRIER}"


def memories(ledger: Ledger) -> Iterator[tuple[str, bool]]:
    """Every memory that was ever planned, in the order of ids, and whether it has a tombstone."""
    rows = ledger.db.execute("SELECT mem0_id, tombstoned_at IS NOT NULL AS gone FROM memory ORDER BY mem0_id")
    return ((row["mem0_id"], bool(row["gone"])) for row in rows)


def memory_of(ledger: Ledger, mem0_id: str) -> Memory | None:
    """The memory as the newest scan gave it."""
    row = ledger.db.execute("SELECT record FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    return Memory.from_json(json.loads(row["record"])) if row else None


@dataclass(frozen=True, slots=True)
class KnownDigests:
    """Digests that show whether a memory changed since the ledger last recorded it."""

    record: str
    text: str | None
    """The text of the newest version."""
    deleted: bool


def known_digests(ledger: Ledger, mem0_ids: Sequence[str]) -> dict[str, KnownDigests]:
    """The digests of those of these memories (at most `AT_ONCE`) that the ledger knows."""
    rows = ledger.db.execute(
        "SELECT memory.mem0_id, memory.digest, tombstoned_at, version.digest AS text FROM memory LEFT JOIN version"
        f" ON version.mem0_id = memory.mem0_id AND number = newest_version WHERE memory.mem0_id IN ({marks(mem0_ids)})",
        tuple(mem0_ids),
    )
    return {row["mem0_id"]: KnownDigests(row["digest"], row["text"], row["tombstoned_at"] is not None) for row in rows}


def newest_scan(ledger: Ledger) -> int:
    """The number of the scan that was planned last; 0 if there was none."""
    return int(ledger.db.execute("SELECT coalesce(max(no), 0) FROM scan").fetchone()[0])


def planned_since(ledger: Ledger, scan: int, *, most: int) -> tuple[int, set[str] | None]:
    """How many living memories got no text from a later scan, and the ids of those that a later scan changed.

    Changed are those with another text and those that are gone. None if later scans concerned more than `most`.

    Both are from one moment, although another process may plan meanwhile.
    """
    is_later = "(memory.scan > ? OR coalesce(tombstoned_by, 0) > ?)"
    rows = ledger.db.execute(
        "SELECT NULL AS mem0_id, count(*) AS living FROM memory"
        f" WHERE tombstoned_at IS NULL AND is_message = 0 AND NOT {is_later}"
        " UNION ALL SELECT mem0_id, living FROM (SELECT memory.mem0_id,"
        " CASE WHEN tombstoned_at IS NULL AND is_message = 0 AND version.scan <= ? THEN 1 ELSE 0 END AS living"
        " FROM memory JOIN version ON version.mem0_id = memory.mem0_id AND version.number = newest_version"
        f" WHERE {is_later} LIMIT ?) AS later",
        (scan, scan, scan, scan, scan, most + 1),
    ).fetchall()
    concerned = [row for row in rows if row["mem0_id"] is not None]
    later = {row["mem0_id"] for row in concerned if not row["living"]}
    return sum(int(row["living"]) for row in rows), later if len(concerned) <= most else None


def was_read_after(ledger: Ledger, mem0_id: str, moment: str) -> bool:
    """Whether the newest text of the memory came from a reading of Mem0 that began after this moment."""
    found = ledger.db.execute(
        "SELECT scan.began FROM memory JOIN version ON version.mem0_id = memory.mem0_id AND number = newest_version"
        " JOIN scan ON scan.no = version.scan WHERE memory.mem0_id = ? AND scan.kind != ?",
        (mem0_id, LIVE),
    ).fetchone()
    return found is not None and found["began"] is not None and moment < found["began"]


@dataclass(frozen=True, slots=True)
class MemoryText:
    """One text of a memory's history."""

    number: int
    text: str
    text_at: str | None


def texts_of_memory(ledger: Ledger, mem0_id: str) -> list[MemoryText]:
    """The texts of a memory that were planned, oldest first."""
    rows = ledger.db.execute(
        "SELECT number, text, text_at FROM version WHERE mem0_id = ? AND text IS NOT NULL ORDER BY number", (mem0_id,)
    )
    return [MemoryText(row["number"], row["text"], row["text_at"]) for row in rows]


def shown_memory(ledger: Ledger, mem0_id: str) -> tuple[Memory, bool] | None:
    """A memory as Mem0 last returned it, and whether Mem0 still has it; None for an unknown id or a message."""
    row = ledger.db.execute(
        "SELECT record, tombstoned_at FROM memory WHERE mem0_id = ? AND is_message = 0", (mem0_id,)
    ).fetchone()
    return (Memory.from_json(json.loads(row["record"])), row["tombstoned_at"] is None) if row else None
