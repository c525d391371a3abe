"""The outbox: what adapters saw Mem0 store, waiting to be brought to Spectron. It belongs to one host.

Adapters append to the log of calls (`call_log`), and only `replay --follow` and the steps of a cutover drain it.
`outbox.db` beside it records how far it was drained, and *unknown* calls: a process died during the call, the call
raised, or its answer names no memory. Nothing of these is lost, because Mem0 is authoritative and a complete reading
finds their results. Standard library alone, because applications import this.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.state.call_log import (
    ANYBODY,
    NEVER,
    CallLines,
    CallSubject,
    CallView,
    Event,
    mark_line,
    missed_at,
    unknown_line,
)
from spectron_migrate.state.outbox_before import NO_CALLS, absorb_calls
from spectron_migrate.state.processes import is_process_alive
from spectron_migrate.state.store import StateStore, store_at

NAME = "outbox"
PATIENCE_S = 20.0
"""How long the follower waits for a database."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

DDL = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unknown(    -- one a call: what it left in Mem0 is there by then, and nobody can say what
  id INTEGER PRIMARY KEY, at TEXT NOT NULL, about TEXT NOT NULL
) STRICT;
"""


class OtherHost(Exception):
    """The outbox belongs to another host; the message names it."""


@dataclass(frozen=True, slots=True)
class CapturedResult:
    """A result that waits to be planned, in order of completion."""

    completed: str
    """RFC 3339. It rises from result to result even if the clock is set back, so it gives their order."""
    event: Event
    mem0_id: str
    text: str | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """What one drain takes from the log."""

    as_of: datetime
    """The time of its mark, later than that of every earlier mark. Nothing before the mark is missing."""
    results: tuple[CapturedResult, ...]
    unknown: tuple[tuple[datetime, CallSubject], ...]
    """Unknown calls, each with a time: a scan that began later has their results."""
    running: tuple[CallSubject, ...]
    """Calls that began before the end of the batch and have not ended."""
    end: int
    """The offset of its end. Later lines come after it."""
    restart: int
    """The offset of the oldest running call, or of the mark. Reading from here shows again which calls are running."""
    is_whole: bool
    """Whether it reaches its mark. If not, more results wait before the mark."""
    absorbed: tuple[Path, ...]
    """Files of version 0.1 that are no longer needed once the unknown calls are kept."""


def claim_host(state: Path | StateStore, host: str) -> None:
    """Make this host the owner of the outbox, if it has none yet. In a state that hosts share, it has no owner.

    Raises OtherHost if it belongs to another one, OSError or sqlite3.Error if that cannot be found out.
    """
    store = store_at(state)
    if store.folder is None:
        return
    with closing(store.tables(NAME, DDL)) as tables:
        tables.change(("INSERT INTO meta(name, value) VALUES ('host', ?) ON CONFLICT DO NOTHING", [(host,)]))
        owner = tables.read("SELECT value FROM meta WHERE name = 'host'")[0][0]
    if owner != host:
        raise OtherHost(f"the outbox in {store.folder} belongs to host {owner}, this is {host}")


class Outbox:
    """The outbox, for the follower that drains it. Safe to use from several threads, by one drainer at a time."""

    def __init__(self, state: Path | StateStore, *, host: str) -> None:
        """Open the outbox, or create it.

        Raises OtherHost if it is another host's, OSError or sqlite3.Error if it cannot be used.
        """
        claim_host(state, host)
        self._state = store_at(state)
        self._log = self._state.call_log(patience_s=PATIENCE_S)
        self._tables = self._state.tables(NAME, DDL)
        self._prefix = self._tables.prefix
        self._view = CallView()
        self._marked = _LONG_AGO
        """The last mark of this process, delivered or not."""
        self._last_line_at = -1
        """The start of the last line that `_view` has read."""
        self._view_end = -1
        """How far `_view` has read the log. If that is not the drained offset, the log is read again."""

    def waits(self) -> bool:
        """Whether anything was appended since the last drain."""
        return self._log.size > self._drained()

    def batch(self, calls: int, now: datetime) -> OutboxBatch:
        """Mark the log, and read what was appended before the mark, at most the results of `calls` calls.

        Raises OSError if the log cannot be written.
        """
        start, last = self._drained(), self._meta("last")
        self._read_running(start)
        before = absorb_calls(self._state.folder, now) if self._state.folder is not None else NO_CALLS
        self._bury(now)
        as_of = max(now, self._last_mark() + timedelta(microseconds=1))
        self._marked = as_of
        mark = mark_line(as_of.timestamp())
        self._log.append(mark)
        reader = _BatchReader(self._view, _moment(last) if last is not None else _LONG_AGO)
        end = self._fold(start, reader=reader, most=calls, until=mark.encode())
        unknown = [*before.unknown, *reader.unknown]
        if self._view.torn:
            unknown.append((as_of, ANYBODY))
            self._view.torn = 0
        return OutboxBatch(
            as_of=as_of,
            results=tuple(reader.results),
            unknown=tuple(unknown),
            running=(*before.running, *(subject for subject, _ in self._view.running.values())),
            end=end,
            # The mark is kept, so that a process that starts later knows up to which time the log was drained.
            restart=self._view.oldest_running(self._last_line_at if reader.is_whole else end),
            is_whole=reader.is_whole,
            absorbed=before.files,
        )

    def delivered(self, batch: OutboxBatch, more_unknown: CallSubject | None = None) -> None:
        """Record that the ledger has the batch. `more_unknown`: owners of results that could not be planned."""
        # First sync the log, so that after a power cut it is at least as long as the drained offset.
        self._log.sync()
        name = self._log.name
        values = [("drained", f"{name} {batch.end}"), ("restart", f"{name} {batch.restart}")]
        values += [("marked", stamp(batch.as_of))]
        values += [("last", batch.results[-1].completed)] if batch.results else []
        unknown = [*batch.unknown, *([(batch.as_of, more_unknown)] if more_unknown is not None else [])]
        rows = [(stamp(at), subject.to_json()) for at, subject in unknown]
        keep = (
            f"INSERT INTO {self._prefix}meta(name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        note = f"INSERT INTO {self._prefix}unknown(at, about) VALUES (?, ?)"
        self._tables.change((keep, values), (note, rows))
        self._log.release(batch.restart)
        for path in batch.absorbed:
            path.unlink(missing_ok=True)

    def unknown(self) -> list[CallSubject]:
        """The unknown calls."""
        found = self._tables.read(f"SELECT about FROM {self._prefix}unknown ORDER BY id")
        return [_subject(row[0]) for row in found]

    @property
    def missed_at(self) -> str:
        """When the last write could not be noted in the log at all, RFC 3339."""
        at = missed_at(self._state.folder) if self._state.folder is not None else NEVER
        return stamp(datetime.fromtimestamp(at, UTC)) if at > 0 else ""

    def settle(self, scanned_since: str) -> None:
        """Forget unknown calls that a complete scan of Mem0, begun at this time, has covered."""
        self._tables.change((f"DELETE FROM {self._prefix}unknown WHERE at < ?", [(scanned_since,)]))

    def close(self) -> None:
        """Close the files; may be called twice."""
        self._tables.close()
        self._log.close()

    def _read_running(self, drained: int) -> None:
        """Read again which calls run, if that is not known."""
        if self._view_end == drained:
            return
        self._view = CallView()
        restart = self._position("restart")
        self._fold(self._log.first_line() if restart is None else restart, end=drained)
        self._view.torn = 0  # its results were taken when it was drained

    def _bury(self, now: datetime) -> None:
        """Record that calls of dead processes are over, with unknown results."""
        bury_the_dead(self._log, self._view, self._state, now.timestamp())

    def _fold(
        self,
        start: int,
        *,
        end: int | None = None,
        reader: _BatchReader | None = None,
        most: int = 0,
        until: bytes = b"",
    ) -> int:
        """Read the lines from `start` to `end` or the line `until`, at most `most` calls; returns where it stopped."""
        while (end is None or start < end) and (lines := self._log.lines_from(start)):
            for text, after in lines:
                if end is not None and start >= end:
                    break
                self._view.fold(text, start)
                self._last_line_at, start = start, after
                if reader is not None:
                    reader.add(text)
                    reader.is_whole = text == until
                    if reader.is_whole or reader.calls >= most:
                        self._view_end = start
                        return start
        self._view_end = start
        return start

    def _last_mark(self) -> datetime:
        marked = self._meta("marked")
        return max(self._marked, _moment(marked)) if marked is not None else self._marked

    def _drained(self) -> int:
        drained = self._position("drained")
        return self._log.first_line() if drained is None else drained

    def _position(self, name: str) -> int | None:
        """An offset in the current file; None if it was noted for another file, or never."""
        file, _, offset = (self._meta(name) or "").rpartition(" ")
        return int(offset) if offset and file == self._log.name else None

    def _meta(self, name: str) -> str | None:
        rows = self._tables.read(f"SELECT value FROM {self._prefix}meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None


class _BatchReader:
    """The results and the unknown calls among the lines of a batch."""

    def __init__(self, view: CallView, last: datetime) -> None:
        self.results: list[CapturedResult] = []
        self.unknown: list[tuple[datetime, CallSubject]] = []
        self.calls = 0
        self.is_whole = False
        self._view = view
        self._last = last

    def add(self, line: bytes) -> None:
        try:
            if line.startswith(b"end "):
                _, _, at, results = line.split(b" ", 3)
                if results != b"-":
                    self._complete(float(at), json.loads(results))
            elif line.startswith(b"unknown "):
                _, _, until, subject = line.split(b" ", 3)
                self.unknown.append((datetime.fromtimestamp(float(until), UTC), CallSubject.from_json(subject)))
                self.calls += 1
            elif line.startswith(b"["):  # the previous version wrote only these lines
                at_before, results_before = json.loads(line)
                self._complete(at_before, results_before)
        except (ValueError, TypeError):
            self._view.torn += 1

    def _complete(self, at: float, results: Any) -> None:
        self.calls += 1
        self._last = max(self._last, datetime.fromtimestamp(at, UTC))
        for event, mem0_id, text, record in results:
            self._last += timedelta(microseconds=1)
            self.results.append(CapturedResult(stamp(self._last), event, mem0_id, text, record))


def bury_the_dead(log: CallLines, view: CallView, state: Path | StateStore, now: float) -> None:
    """Note in the log that calls of dead processes are over, with unknown results. Raises OSError."""
    calls = [(call.decode(), subject) for call, (subject, _) in list(view.running.items())]
    dead = {
        process for process in {call.rpartition("/")[0] for call, _ in calls} if not is_process_alive(state, process)
    }
    for call, subject in calls:
        if call.rpartition("/")[0] in dead:
            log.append(unknown_line(call, now, subject))


def _subject(text: str) -> CallSubject:
    try:
        return CallSubject.from_json(text)
    except ValueError:
        return ANYBODY


def stamp(moment: datetime) -> str:
    """A time as the outbox keeps it: RFC 3339, to the microsecond."""
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:26]}Z"


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
