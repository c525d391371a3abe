"""Notes the calls of one process that change Mem0, and knows whose reads have to wait for calls of all processes.

Each call is noted in the log (`state/call_log.py`) before and after it is made. If the log cannot be written, or a
database does not answer in time, the application's call does not fail. Instead, the time goes into the file
`outbox.missed`, and everybody's reads stay with Mem0 until all of Mem0 has been read. A database has no such file:
there the call is noted as unknown once the database answers, and until then this process reads from Mem0. Before a
cutover begins nothing is written. Without a state directory, everything stays in this process's memory.
"""

from __future__ import annotations

import itertools
import logging
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spectron_migrate.errors import MigrateError, NotLegal
from spectron_migrate.state.call_log import (
    NEVER,
    CallLines,
    CallSubject,
    CallView,
    begin_line,
    end_line,
    missed_at,
    note_missed,
    unknown_line,
)
from spectron_migrate.state.outbox import OtherHost, bury_the_dead, claim_host
from spectron_migrate.state.outbox_before import is_in_use
from spectron_migrate.state.routing import Routing
from spectron_migrate.state.store import StateStore, store_at

CONNECT_S = 5.0
"""How long the background waits for a connection to a database."""
RETRY_S = 1.0
"""How often the process tries again to open a log, and checks whether files of version 0.1 are still there."""
CHECKPOINT = 1 << 16
"""Bytes between two recorded offsets. Space is freed up to one of them."""
KEPT_S = 300.0
"""How long lines are kept after they were drained. Memories that Mem0 has accepted may appear up to this much later."""
MOST_TAIL = 1_000_000
"""The most bytes of the log that a search reads itself. The background thread has to read more than that."""
_FAILURES = (OSError, sqlite3.Error, MigrateError)
"""Errors that a log or a database may raise, and that must not fail a call of the application."""
_UNNAMED = "-"
"""Used in place of a token by a process that has none."""
MOST_OWNERS = 10_000
"""If more owners than this are remembered, those for whom Spectron has everything are forgotten."""

_log = logging.getLogger("spectron_migrate.adapter")


class ProcessCalls:
    """Safe to use from several threads; in a child process after `forget_after_fork`."""

    def __init__(self, state: Path | StateStore, process: Callable[[], str | None]) -> None:
        """`process`: the token of this process in `processes/`; None while it has none."""
        self._state = store_at(state)
        self._process = process
        self._token: str | None = None
        self._lock = threading.Lock()
        self._view_lock = threading.Lock()
        """Held while the log is opened or read, which may take longer than a call may wait."""
        self._numbers = itertools.count(1)
        self._epochs: dict[int, int] = {}
        """Running calls, each with the step of the cutover in which it began."""
        self._log: CallLines | None = None
        self._view = CallView()
        self._position = 0
        self._retry_at = NEVER
        self._check_before_at = NEVER
        self._is_before_in_use = False
        self._missed_here = NEVER
        self._checkpoints: deque[tuple[float, int]] = deque()
        """Recorded times, each with the offset up to which the log had been read."""
        self._owed: list[str] = []
        """Lines for which the log had no room, to be written later."""
        self._is_claimed = False
        self._complained = False
        self.changes = 0
        self.unnoted = 0
        """Calls that could not be noted in the log."""

    # -- noting calls --

    def start(self, routing: Callable[[], Routing]) -> tuple[int, Routing]:
        """Begin a call; returns its number and the routing in force for it.

        The call counts as running before another process can conclude that no call of an earlier epoch is running.
        """
        with self._lock:
            current = routing()
            number = next(self._numbers)
            self._epochs[number] = current.epoch
            self.changes += 1
        return number, current

    def finish(self, number: int) -> None:
        """Note that the call is over."""
        with self._lock:
            self._epochs.pop(number, None)
            self.changes += 1

    @property
    def oldest_epoch(self) -> int | None:
        """The step of the cutover in which the oldest running call began; None if none runs."""
        with self._lock:
            return min(self._epochs.values(), default=None)

    def note_begin(self, number: int, epoch: int, at: float, subject: CallSubject, *, capture: bool) -> str:
        """Write the line before a call; returns the call's name in the log.

        `capture`: its results will be noted after it.
        """
        if not self._open(capture=capture):
            call = f"{_UNNAMED}/{number}"
            self._remember(begin_line(call, epoch, at, subject), at)
            return call
        call = f"{self._token}/{number}"
        self._append(begin_line(call, epoch, at, subject), at)
        return call

    def note_end(self, call: str, at: float, results: str | None, subject: CallSubject, *, capture: bool) -> None:
        """Write the line after a call. `results`: what it left in Mem0, as JSON; None if unknown or not captured."""
        known = not capture or results is not None
        line = end_line(call, at, results or "-") if known else unknown_line(call, at, subject)
        if call.startswith(_UNNAMED):
            self._remember(line, at)
            self._count_unnoted()
            if self._state.folder is None:  # other processes learn of it once the database answers
                self._owed.append(unknown_line(call, at, subject))
        elif call.rpartition("/")[0] == self._token:  # in a child process, the call is the parent's
            self._append(line, at, otherwise=unknown_line(call, at, subject))

    def refuse_other_host(self) -> None:
        """Raises NotLegal if the outbox belongs to another host, which would not see the calls of this one."""
        try:
            claim_host(self._state, socket.gethostname())
        except OtherHost as error:
            raise NotLegal(
                str(error),
                hint="with `cutover: {catch_up: follow}` any number of hosts may write: abort and start again with it",
            ) from None
        except _FAILURES as error:
            self._complain(error)

    # -- whose reads have to wait --

    def must_wait(self, owner: str, as_of: float) -> bool:
        """Whether Spectron, caught up as of this time, may still lack something that a read by this id should find."""
        if self._missed_here >= as_of or self._owed or self._has_older_calls():
            return True
        if self._state.folder is None and self._token is None:
            return True  # calls of other processes cannot be seen yet
        self._open(capture=False)
        if self._log is not None:
            try:
                folder = self._state.folder
                # Not with a database: every query takes time, and the background thread has read all but the last
                # moment.
                if folder is not None and (missed_at(folder) >= as_of or self._log.size - self._position > MOST_TAIL):
                    return True
                self._tail(self._log)
            except _FAILURES:
                return True  # calls of other processes cannot be seen
        if self._view.owners > MOST_OWNERS:
            with self._view_lock:
                self._view.forget_before(as_of)
        return self._view.must_wait(owner, as_of)

    # -- in the background --

    def maintain(self, *, as_of: float, drained: bool) -> None:
        """Write lines that had no room, end calls of dead processes, and free space of the log.

        `drained`: a follower drains the log, and frees its space itself.
        """
        if self._state.folder is None and self._token is None:
            self.connect()
        log = self._log
        if log is None:
            return
        with suppress(*_FAILURES):
            self._tail(log)
            if self._view.running:
                bury_the_dead(log, self._view, self._state, time.time())
            while self._owed:
                log.append(self._owed[0])
                self._owed.pop(0)
            if not drained:
                self._release(log, as_of)

    def forget_after_fork(self) -> None:
        """In a child process: the calls and the lock are the parent's, but the log can still be used."""
        self._lock, self._view_lock = threading.Lock(), threading.Lock()
        self._token, self._epochs, self._owed = None, {}, []
        if self._log is not None:
            self._log.forget_after_fork()
        if self._state.folder is None:
            self._log = None  # the child makes a connection of its own
        self._view, self._position = CallView(), self._log.first_line() if self._log is not None else 0

    def close(self) -> None:
        """Write the lines that had no room, and close the log."""
        self.maintain(as_of=NEVER, drained=True)
        if self._log is not None:
            self._log.close()

    # -- how --

    def _open(self, *, capture: bool) -> bool:
        """Whether the log can be used. To capture, the outbox must belong to this host."""
        if self._token is not None and (self._is_claimed or not capture):
            return True
        if self._state.folder is None:
            return False  # the background connects
        with self._view_lock:
            return self._try_to_open(capture=capture)

    def connect(self) -> None:
        """Open the log in a database, which takes longer than a call may wait."""
        if self._state.folder is None:
            with self._view_lock:
                self._try_to_open(capture=True)

    def _try_to_open(self, *, capture: bool) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + RETRY_S
        try:
            if self._state.folder is not None and not self._state.folder.is_dir():
                return False
            if capture and not self._is_claimed:
                claim_host(self._state, socket.gethostname())
                self._is_claimed = True
            if self._log is None:
                log = self._state.call_log()
                log.connect(CONNECT_S)
                self._position = log.first_line()
                self._log = log
            self._token = self._process()
        except (*_FAILURES, OtherHost) as error:
            if capture:
                self._complain(error)
            return False
        self._retry_at = NEVER
        return self._token is not None

    def _append(self, line: str, at: float, *, otherwise: str = "") -> None:
        assert self._log is not None  # noqa: S101 - opened before
        try:
            self._log.append(line)
        except (*_FAILURES, ValueError) as error:
            self._complain(error)
            if otherwise:
                self._count_unnoted()
            self._missed_here = max(self._missed_here, at)
            self._view.fold((otherwise or line).encode(), self._position)
            if otherwise:
                self._owed.append(otherwise)
            self._note_missed(at)

    def _count_unnoted(self) -> None:
        with self._lock:
            self.unnoted += 1
            self.changes += 1

    def _remember(self, line: str, at: float) -> None:
        """Keep in memory what cannot be noted in the log.

        Other processes at least see that something is missing there.
        """
        self._view.fold(line.encode(), self._position)
        self._note_missed(at)

    def _note_missed(self, at: float) -> None:
        folder = self._state.folder
        with suppress(OSError):
            if folder is not None and folder.is_dir():
                note_missed(folder, at)

    def _tail(self, log: CallLines) -> None:
        """Read what was appended since the last call. Raises OSError."""
        if self._state.folder is not None and log.size == self._position:
            return
        with self._view_lock:
            while lines := log.lines_from(self._position):
                for line, after in lines:
                    self._view.fold(line, self._position)
                    self._position = after
            if not self._checkpoints or self._position - self._checkpoints[-1][1] >= CHECKPOINT:
                self._checkpoints.append((time.time(), self._position))

    def _release(self, log: CallLines, as_of: float) -> None:
        """Free the space of lines that nobody needs: those of calls that ended long before `as_of`."""
        end = 0
        while self._checkpoints and self._checkpoints[0][0] + KEPT_S < as_of:
            _, end = self._checkpoints.popleft()
        if end:
            log.release(min(end, self._view.oldest_running(end)))

    def _has_older_calls(self) -> bool:
        """Whether files of version 0.1 hold calls that no drain has taken over yet. While they do, every read waits."""
        if time.monotonic() >= self._check_before_at:
            self._check_before_at = time.monotonic() + RETRY_S
            self._is_before_in_use = self._state.folder is not None and is_in_use(self._state.folder)
        return self._is_before_in_use

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("writes to Mem0 are not captured; reconciling will find them: %s", error)
