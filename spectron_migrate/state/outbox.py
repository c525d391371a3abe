"""The outbox: what an application's adapters saw Mem0 store, waiting to come to Spectron. One host's.

Adapters only append, one write to one file a call (`outbox.log`), as soon as Mem0 returned: if one call returned before
another began, its results come first. How far the file was drained, and what is *unknown*, lies beside it in
`outbox.db`: what a process left open that died (`running`), a call that raised, or an answer that names no memory. It
is not lost: Mem0 is the truth, and reconciling finds it. What was appended survives the death of any process at once,
and a power cut within moments; what such a cut takes is unknown too. Standard library alone, because applications
import this.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from spectron_migrate.state.running import About

FILE = "outbox.db"
LOG = "outbox.log"
LOCK = "outbox.lock"
BUSY_S = 1.0
"""How long an application waits while the drained file is emptied; beyond it the call is unknown."""
_PAUSE_S = 0.001
_GENERATION = b"filling "
LARGE = 4_000_000
"""Bytes that were drained and are worth emptying the file for."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

Event = Literal["ADD", "UPDATE", "DELETE", "MESSAGE"]
"""What a call did to a memory; or what the application said, followed by what Mem0 made of it."""

_DDL = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unknown(    -- one a call: what it left in Mem0 is there by then, and nobody can say what
  id INTEGER PRIMARY KEY, at TEXT NOT NULL, about TEXT NOT NULL
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
    """Where in the file it ends, in bytes; what is appended meanwhile comes behind."""
    torn: bool
    """Whether something in between cannot be read, as a power cut leaves it: it could be about anybody."""


class Outbox:
    """Safe to use from several threads and processes of one host."""

    def __init__(self, state: Path, *, host: str) -> None:
        """Open it, or make it.

        Raises OtherHost where it is another host's, OSError or sqlite3.Error where it cannot be used.
        """
        path = state / FILE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.Lock()
        self._log = os.open(state / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._hold(fcntl.LOCK_SH)
        self._name()
        fcntl.flock(self._log, fcntl.LOCK_UN)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_DDL)
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('host', ?)", (host,))
        owner = self._meta("host")
        if owner != host:
            self.close()
            raise OtherHost(f"the outbox in {state} belongs to host {owner}, this is {host}")

    # -- what applications do: as little as possible, because a user waits for it --

    def complete(self, results: Sequence[Result], now: datetime) -> None:
        """A call returned, and this is what it left in Mem0. Raises OSError where that cannot be kept."""
        told = [[each.event, each.mem0_id, each.text, each.record or {}] for each in results]
        # Behind a line of its own, should one that was cut off stand before it.
        line = f"\n{json.dumps([_stamp(now), told])}\n".encode()
        with self._lock:
            self._hold(fcntl.LOCK_SH)
            try:
                if os.write(self._log, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                fcntl.flock(self._log, fcntl.LOCK_UN)

    def leave_unknown(self, calls: Sequence[About], at: datetime) -> None:
        """Nobody can say from here what these calls left in Mem0 until `at`; a reading that begins later finds it."""
        with self._change() as db:
            rows = [(_stamp(at), call.to_json()) for call in calls]
            db.executemany("INSERT INTO unknown(at, about) VALUES (?, ?)", rows)

    # -- what the drainer does --

    def batch(self, calls: int) -> Batch:
        """The results of so many calls that wait, first completed first."""
        with self._lock:
            last, start = self._meta("last"), self._drained()
            lines, up_to, torn = self._lines(start, calls)
        moment = _moment(last) if last is not None else datetime.min.replace(tzinfo=UTC)
        rows: list[Row] = []
        for at, results in lines:
            moment = max(moment, _moment(at))
            for event, mem0_id, text, record in results:
                moment += timedelta(microseconds=1)
                rows.append(Row(_stamp(moment), event, mem0_id, text, record))
        return Batch(tuple(rows), len(lines), up_to, torn)

    def waits(self) -> bool:
        """Whether any result waits."""
        with self._lock:
            return os.fstat(self._log).st_size > self._drained()

    def delivered(self, batch: Batch) -> None:
        """The ledger has it."""
        with self._change() as db:
            values = [("drained", f"{self._generation()} {batch.up_to}")]
            values += [("last", batch.rows[-1].completed)] if batch.rows else []
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        if batch.up_to >= LARGE:
            self._empty(batch.up_to)

    def unknown(self) -> list[About]:
        """Calls of which nobody knows what they left in Mem0."""
        with self._lock:
            found = self._db.execute("SELECT about FROM unknown ORDER BY id").fetchall()
        return [About.from_json(row[0]) for row in found]

    def settle(self, scanned_since: str) -> None:
        """All of Mem0 was read, beginning at this moment: what was left there before it is known now."""
        with self._change() as db:
            db.execute("DELETE FROM unknown WHERE at < ?", (scanned_since,))

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._db.close()
            os.close(self._log)
            self._log = -1

    def _lines(self, start: int, most: int) -> tuple[list[tuple[str, Any]], int, bool]:
        """Whole lines from there on, where they end, and whether some of them are none."""
        found: list[tuple[str, Any]] = []
        torn = False
        with open(os.dup(self._log), "rb") as log:
            log.seek(start)
            for line in log:
                if not line.endswith(b"\n") or len(found) >= most:
                    break
                start += len(line)
                if not line.strip() or line.startswith(_GENERATION):
                    continue
                try:
                    at, results = json.loads(line)
                    found.append((at, results))
                except ValueError:
                    torn = True
        return found, start, torn

    def _generation(self) -> str:
        """Which filling of the file this is; nothing where whoever emptied it died before it could say."""
        line = os.pread(self._log, 64, 0).split(b"\n", 1)[0]
        return line[len(_GENERATION) :].decode("ascii", "replace") if line.startswith(_GENERATION) else ""

    def _drained(self) -> int:
        """How far this filling was drained."""
        generation, _, up_to = (self._meta("drained") or " 0").rpartition(" ")
        return int(up_to) if generation == self._generation() else 0

    def _empty(self, drained: int) -> None:
        """Give the room back, where nothing waits and nobody is appending."""
        with self._lock, suppress(BlockingIOError):
            self._hold(fcntl.LOCK_EX, wait_s=0.0)
            try:
                if os.fstat(self._log).st_size == drained:
                    os.ftruncate(self._log, 0)
                    self._name()
            finally:
                fcntl.flock(self._log, fcntl.LOCK_UN)

    def _name(self) -> None:
        """An empty file begins with the name of this filling: how far an earlier one was drained says nothing of it."""
        if not os.fstat(self._log).st_size:
            os.write(self._log, b"%s%d\n" % (_GENERATION, time.time_ns()))

    def _hold(self, how: int, wait_s: float = BUSY_S) -> None:
        """Lock the log against its being emptied, or to empty it; raises BlockingIOError."""
        if self._log < 0:
            raise OSError(errno.EBADF, "the outbox is closed")
        deadline: float | None = None
        while True:
            try:
                return fcntl.flock(self._log, how | fcntl.LOCK_NB)
            except BlockingIOError:
                deadline = time.monotonic() + wait_s if deadline is None else deadline
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

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
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:26]}Z"


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
