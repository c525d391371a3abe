"""The adapter's background thread: it reads the routing, writes the status of this process, and maintains its calls."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.adapter.counters import ProcessCounters
from spectron_migrate.adapter.guard import Guard
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.errors import MigrateError
from spectron_migrate.records import parse_time
from spectron_migrate.state.following import why_undrained
from spectron_migrate.state.process_status import GuardStatus, ProcessStatus, stamp
from spectron_migrate.state.processes import FOLDER, OwnFile
from spectron_migrate.state.routing import Routing
from spectron_migrate.state.routing_reader import RoutingReader
from spectron_migrate.state.store import StateStore, store_at

EVERY_S = 0.5
UNCHANGED_S = 5.0
"""How often the status is written if it has not changed."""

_log = logging.getLogger("spectron_migrate.adapter")


class Heartbeat:
    """One thread, started by the first call, also in a child process. Failures are logged, never raised."""

    def __init__(
        self,
        state: Path | StateStore,
        routing: RoutingReader,
        counters: ProcessCounters,
        guard: Guard,
        connect: Callable[[], None] = lambda: None,
    ) -> None:
        """`state`: nothing is written while its directory or tables do not exist. `connect` is called in the thread."""
        self._connect = connect
        self._state = store_at(state)
        self._routing = routing
        self._counters = counters
        self._guard = guard
        self.calls = ProcessCalls(self._state, self.token)
        """The calls of this process to Mem0."""
        self._lock = threading.Lock()
        self._own: OwnFile | None = None
        self._pid = 0
        self._began = stamp(datetime.now(UTC))
        self._wake = threading.Event()
        self._closed = False
        self._written: tuple[object, ...] = ()
        self._written_at = datetime.min.replace(tzinfo=UTC)
        self._problem = ""
        self._drain_check_at = float("-inf")
        self._undrained = 0
        """How many checks in a row found that no process drains the outbox."""

    def begin(self) -> None:
        """Start the thread unless it runs in this process."""
        if self._pid == os.getpid() or self._closed:
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid, self._written = os.getpid(), ()
            self._began = stamp(datetime.now(UTC))
            threading.Thread(target=self._run, name="spectron-adapter", daemon=True).start()
            atexit.register(self.close)

    def token(self) -> str | None:
        """The name of this process in the log of calls; None without a state. Raises OSError."""
        with self._lock:
            own = self._own_file()
        return own.token if own is not None else None

    def beat(self) -> None:
        """Write the status, if it has changed."""
        with self._lock:
            try:
                self._beat()
            except Exception as error:  # a database may raise any error, for example because a table is gone
                problem = getattr(error, "strerror", None) or error
                self._complain(f"{self._state.describe(FOLDER)} cannot be written: {problem}")

    def forget_after_fork(self) -> None:
        """In a child process: the file and the lock are the parent's."""
        self._lock = threading.Lock()
        if self._own is not None:
            self._own.close()
        self._own = None

    def close(self) -> None:
        """Write the last status and stop the thread."""
        self._closed = True
        self._wake.set()
        if self._pid == os.getpid():
            self.beat()
            if self._own is not None:
                self._own.close()
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._connect()
                routing = self._routing.current()
                self._warn_if_undrained(routing)
                self.calls.maintain(as_of=as_of_seconds(routing.as_of), drained=routing.catch_up == "outbox")
            except Exception as error:  # no error of a database may end the thread
                self._complain(f"{self._state} cannot be used: {error}")
            self.beat()
            self._wake.wait(EVERY_S)

    def _warn_if_undrained(self, routing: Routing) -> None:
        """Warn once each time the outbox is found not to be drained, and say why."""
        if time.monotonic() < self._drain_check_at:
            return
        self._drain_check_at = time.monotonic() + UNCHANGED_S
        captures = routing.catch_up == "outbox" and routing.phase in ("started", "shift", "closing")
        try:
            problem = why_undrained(self._state) if captures else None
        except MigrateError:  # the database does not answer: another message says so
            return
        # Twice in a row: a follower may just be restarting.
        if problem is not None and self._undrained == 1:
            _log.warning("captured writes wait: %s", problem)
        self._undrained = self._undrained + 1 if problem is not None else 0

    def _beat(self) -> None:
        own = self._own_file()
        if own is None:
            return
        routing = self._routing.current()
        changes, guard = (self._counters.changes, self.calls.changes), (self._guard.state, self._guard.trips)
        status = (changes, routing.epoch, self._routing.problem, guard, self._closed)
        now = datetime.now(UTC)
        if status == self._written and (now - self._written_at).total_seconds() < UNCHANGED_S:
            return
        last_read = self._counters.last_read
        guard_status = GuardStatus(
            self._guard.state != "closed", self._guard.since, self._guard.reason, self._guard.trips
        )
        own.write(
            ProcessStatus(
                host=own.host,
                pid=own.pid,
                began=self._began,
                heartbeat=stamp(now),
                epoch=routing.epoch,
                routing_problem=self._routing.problem,
                last_reads={} if last_read is None else {own.host: stamp(last_read)},
                ended=stamp(now) if self._closed else None,
                guard=guard_status,
                running_epoch=self.calls.oldest_epoch,
                unnoted=self.calls.unnoted,
                **self._counters.snapshot(),
            )
        )
        self._written, self._written_at = status, now

    def _own_file(self) -> OwnFile | None:
        if self._own is None and self._state.is_there():
            self._own = OwnFile(self._state)
        return self._own

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("%s", problem)
            self._problem = problem


def as_of_seconds(as_of: str | None) -> float:
    """The `as_of` of a routing in seconds since 1970; minus infinity if it has none."""
    try:
        return parse_time(as_of).timestamp() if as_of else float("-inf")
    except ValueError:
        return float("-inf")
