"""The outbox: what an application's adapters saw Mem0 store, waiting to come to Spectron. One SQLite file, one host.

Adapters only append. A call is noted before Mem0 is asked and its results right after, in order of completion: if one
call returned before another began, its results come first. What is left open by a process that died, by a call that
raised, or by an answer that names no memory is *unknown*, not lost: Mem0 is the truth, and reconciling finds it.
Commits survive the death of any process at once, and a power cut within moments; what such a cut takes is unknown too.
Standard library alone, because applications import this.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

FILE = "outbox.db"
LOCK = "outbox.lock"
BUSY_S = 1.0
"""How long an application waits for another's append; beyond it the call is unknown."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

Event = Literal["ADD", "UPDATE", "DELETE"]

_DDL = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call(
  id INTEGER PRIMARY KEY, process TEXT NOT NULL, owners TEXT NOT NULL, began TEXT NOT NULL,
  unknown INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS returned(    -- one a call, in order of completion
  seq INTEGER PRIMARY KEY, call INTEGER NOT NULL, at TEXT NOT NULL, results TEXT NOT NULL
) STRICT;
"""


class OtherHost(Exception):
    """The outbox belongs to another host; the message names it."""


@dataclass(frozen=True, slots=True)
class Result:
    """One memory that a call left in Mem0."""

    event: Event
    mem0_id: str
    text: str | None = None
    record: dict[str, Any] | None = None
    """What else is known of it: the fields of a memory."""


@dataclass(frozen=True, slots=True)
class Row:
    """A result that waits, in order of completion."""

    completed: str
    """When, RFC 3339; it rises from row to row even where the clock goes back, so that it can stand for the order."""
    event: Event
    mem0_id: str
    text: str | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """The results of the calls that completed first."""

    rows: tuple[Row, ...]
    calls: int
    up_to: int
    """Where in the file it ends; what is appended meanwhile comes behind."""


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that has no results yet, or never will have."""

    id: int
    process: str
    owners: tuple[str, ...]
    began: str
    unknown: bool


class Outbox:
    """Safe to use from several threads and processes of one host."""

    def __init__(self, state: Path, *, host: str) -> None:
        """Open it, or make it.

        Raises OtherHost where it is another host's, OSError or sqlite3.Error where it cannot be used.
        """
        path = state / FILE
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.executescript(_DDL)
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('host', ?)", (host,))
        owner = self._db.execute("SELECT value FROM meta WHERE name = 'host'").fetchone()[0]
        if owner != host:
            self._db.close()
            raise OtherHost(f"the outbox in {state} belongs to host {owner}, this is {host}")

    # -- what applications do: one statement each, because a user waits for it --

    def begin(self, process: str, owners: Sequence[str], now: datetime) -> int:
        """A call is about to be made; its number."""
        with self._lock:
            cursor = self._db.execute(
                "INSERT INTO call(process, owners, began) VALUES (?, ?, ?)",
                (process, json.dumps(list(owners)), _stamp(now)),
            )
        assert cursor.lastrowid is not None  # noqa: S101 - an INSERT always has one
        return cursor.lastrowid

    def complete(self, call: int, results: Sequence[Result], now: datetime) -> None:
        """The call returned, and this is what it left in Mem0."""
        told = [[each.event, each.mem0_id, each.text, each.record or {}] for each in results]
        with self._lock:
            self._db.execute(
                "INSERT INTO returned(call, at, results) VALUES (?, ?, ?)", (call, _stamp(now), json.dumps(told))
            )

    def leave_unknown(self, calls: Sequence[int]) -> None:
        """Nobody can say from here what these calls left in Mem0."""
        with self._change() as db:
            db.executemany("UPDATE call SET unknown = 1 WHERE id = ?", [(call,) for call in calls])

    # -- what the drainer does --

    def batch(self, calls: int) -> Batch:
        """The results of so many calls that wait, first completed first."""
        with self._lock:
            last = self._db.execute("SELECT value FROM meta WHERE name = 'last'").fetchone()
            found = self._db.execute("SELECT seq, at, results FROM returned ORDER BY seq LIMIT ?", (calls,)).fetchall()
        moment = _moment(last[0]) if last is not None else datetime.min.replace(tzinfo=UTC)
        rows: list[Row] = []
        for _, at, results in found:
            moment = max(moment, _moment(at))
            for event, mem0_id, text, record in json.loads(results):
                moment += timedelta(microseconds=1)
                rows.append(Row(_stamp(moment), event, mem0_id, text, record))
        return Batch(tuple(rows), len(found), found[-1][0] if found else 0)

    def waits(self) -> bool:
        """Whether any result waits."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM returned LIMIT 1").fetchone() is not None

    def delivered(self, batch: Batch) -> None:
        """The ledger has it."""
        with self._change() as db:
            if batch.rows:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('last', ?)", (batch.rows[-1].completed,))
            db.execute("DELETE FROM call WHERE id IN (SELECT call FROM returned WHERE seq <= ?)", (batch.up_to,))
            db.execute("DELETE FROM returned WHERE seq <= ?", (batch.up_to,))

    def calls(self) -> list[OpenCall]:
        """Calls without results."""
        with self._lock:
            found = self._db.execute(
                "SELECT id, process, owners, began, unknown FROM call"
                " WHERE id NOT IN (SELECT call FROM returned) ORDER BY id"
            ).fetchall()
        return [OpenCall(row[0], row[1], tuple(json.loads(row[2])), row[3], bool(row[4])) for row in found]

    def check_in(self) -> None:
        """Bring what was appended into the file proper; it waits for the disk, so no application does it."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def settle(self, scanned_since: str) -> None:
        """All of Mem0 was read, beginning at this moment: what was unknown before it is known now."""
        with self._change() as db:
            db.execute(
                "DELETE FROM call WHERE unknown = 1 AND began < ? AND id NOT IN (SELECT call FROM returned)",
                (scanned_since,),
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
