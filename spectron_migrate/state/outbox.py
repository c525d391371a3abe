"""The outbox: what an application's adapters saw Mem0 store, waiting to come to Spectron. One host's.

Adapters only append, one write to one file a call (`outbox.log`), as soon as Mem0 returned: if one call returned before
another began, its results come first. Nobody waits for anybody, because nothing in the file ever moves: what was
drained becomes a hole in it, which takes no room. How far it was drained, and what is *unknown*, lies beside it in
`outbox.db`: what a process left open that died (`running`), a call that raised, or an answer that names no memory. It
is not lost: Mem0 is the truth, and reconciling finds it. What was appended survives the death of any process at once,
and a power cut within moments; what such a cut takes is unknown too. Standard library alone, because applications
import this.
"""

from __future__ import annotations

import errno
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

from spectron_migrate.files.shared_sqlite import open_shared
from spectron_migrate.files.space import release_space
from spectron_migrate.state.running import About

FILE = "outbox.db"
LOG = "outbox.log"
BUSY_S = 1.0
"""How long a call that raised waits until it is noted as unknown, while others are; beyond it nobody captured it."""
LARGE = 4_000_000
"""Bytes that were drained and are worth giving back."""
_NAME = b"filling "
_NAME_LENGTH = 64
"""Bytes at most; they stay when all else was given back."""
_encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode
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
        self._lock = threading.Lock()
        self._log = os.open(state / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._name()
        self._given_back = _NAME_LENGTH
        self._db = open_shared(state / FILE, _DDL, busy_s=BUSY_S)
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._change() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('host', ?)", (host,))
        owner = self._meta("host")
        if owner != host:
            self.close()
            raise OtherHost(f"the outbox in {state} belongs to host {owner}, this is {host}")

    # -- what applications do: as little as possible, because a user waits for it --

    def complete(self, results: Sequence[Result], now: datetime) -> None:
        """A call returned, and this is what it left in Mem0.

        Raises OSError where that cannot be kept, TypeError or ValueError where it is no JSON, a NaN included.
        """
        told = [[each.event, each.mem0_id, each.text, each.record or {}] for each in results]
        # Behind a line of its own, should one that was cut off stand before it.
        line = f"\n{_encode([now.timestamp(), told])}\n".encode()
        with self._lock:  # `close` is not to hand the file's number to somebody else meanwhile
            written = os.write(self._log, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
            moment = max(moment, datetime.fromtimestamp(at, UTC))
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
        with self._lock:
            if batch.up_to == self._drained():
                return
            # So that after a power cut too the file reaches as far as it was drained, and its hole no further.
            os.fdatasync(self._log)
            self._db.execute("PRAGMA synchronous = FULL")
        with self._change() as db:
            values = [("drained", f"{self._named()} {batch.up_to}")]
            values += [("last", batch.rows[-1].completed)] if batch.rows else []
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        if batch.up_to - self._given_back >= LARGE:
            self._give_back(batch.up_to)

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
            if self._log >= 0:
                os.close(self._log)
            self._log = -1

    def _lines(self, start: int, most: int) -> tuple[list[tuple[float, Any]], int, bool]:
        """Whole lines from there on, where they end, and whether some of them are none."""
        found: list[tuple[float, Any]] = []
        torn = False
        with open(os.dup(self._log), "rb") as log:
            log.seek(start)
            for line in log:
                if not line.endswith(b"\n") or len(found) >= most:
                    break
                start += len(line)
                if not line.strip() or line.startswith(_NAME):
                    continue
                try:
                    at, results = json.loads(line)
                    found.append((at, results))
                except ValueError:
                    torn = True
        return found, start, torn

    def _name(self) -> None:
        """A new file begins with a name of its own: how far an earlier one was drained says nothing of it."""
        if not os.fstat(self._log).st_size:
            os.write(self._log, b"%s%d" % (_NAME, time.time_ns()) + b"\n")

    def _named(self) -> str:
        line = os.pread(self._log, _NAME_LENGTH, 0).split(b"\n", 1)[0]
        return line[len(_NAME) :].decode("ascii", "replace") if line.startswith(_NAME) else ""

    def _drained(self) -> int:
        """How far this file was drained."""
        name, _, up_to = (self._meta("drained") or " 0").rpartition(" ")
        return int(up_to) if name == self._named() else 0

    def _give_back(self, drained: int) -> None:
        """Free the room of what was drained; a file system that cannot do that keeps it."""
        with self._lock:
            with suppress(OSError):
                release_space(self._log, _NAME_LENGTH, drained)
            self._given_back = drained

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
