"""Capturing what Mem0 stores, call by call, into the outbox. An application's call never fails for it."""

from __future__ import annotations

import logging
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from spectron_migrate.adapter.call_results import ResultsOf, messages_of, results_of
from spectron_migrate.errors import NotLegal
from spectron_migrate.settings.types import Settings
from spectron_migrate.state.outbox import OtherHost, Outbox
from spectron_migrate.state.running import About, Running

_log = logging.getLogger("spectron_migrate.adapter")


class Captures:
    """The outbox as this process uses it. It is opened once; where that is not possible, nothing is captured."""

    def __init__(self, settings: Settings) -> None:
        """Open the outbox; what goes wrong is logged, and raised by `refuse_other_host`."""
        self._running: Running | None = None
        self._outbox: Outbox | None = None
        self._other_host: OtherHost | None = None
        self._said = False
        self._results_of = messages_of if settings.cutover.capture == "messages" else results_of
        try:
            self._outbox = Outbox(settings.state, host=socket.gethostname())
            self._running = Running(settings.state)
        except OtherHost as error:
            self._other_host = error
            self._complain(error)
        except (OSError, sqlite3.Error) as error:
            self._complain(error)

    def refuse_other_host(self) -> None:
        """Raises NotLegal where the outbox is another host's: only what this process writes would be missing there."""
        if self._other_host is not None:
            raise NotLegal(
                str(self._other_host),
                hint="with `cutover: {catch_up: follow}` any number of hosts may write: abort and start anew with it",
            )

    def begin(self, method: str, given: Mapping[str, Any], owners: Sequence[str], memory_id: str | None) -> Call | None:
        """Note that a call is about to be made; None where that could not be noted."""
        if self._outbox is None or self._running is None:
            return None
        try:
            slot = self._running.begin(owners, memory_id)
        except OSError as error:
            self._complain(error)
            return None
        about = About(tuple(owners), memory_id)
        return Call(self._outbox, self._running, slot, about, method, given, self._results_of, self._complain)

    def close(self) -> None:
        """Close the outbox."""
        if self._outbox is not None:
            self._outbox.close()

    def forget_in_child(self) -> None:
        """In a child process: the calls are the parent's, and it alone may hold them."""
        if self._running is not None:
            self._running.close()

    def _complain(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            _log.warning("writes to Mem0 are not captured; reconciling will find them: %s", error)


class Call:
    """One call to Mem0 that is noted."""

    def __init__(
        self,
        outbox: Outbox,
        running: Running,
        slot: int,
        about: About,
        method: str,
        given: Mapping[str, Any],
        results_of: ResultsOf,
        complain: Callable[[Exception], None],
    ) -> None:
        """`slot`: of the call among those that run."""
        self._outbox = outbox
        self._running = running
        self._slot = slot
        self._about = about
        self._method = method
        self._given = given
        self._results_of = results_of
        self._complain = complain
        self._is_known = False

    def returned(self, answer: Any) -> None:
        """Mem0 answered: keep what it says that it stored."""
        try:
            results = self._results_of(self._method, self._given, answer)
            if results:
                self._outbox.complete(results, datetime.now(UTC))
            self._is_known = results is not None
        except Exception as error:  # a full disk, metadata that is no JSON: Mem0 has it, so the call must not fail
            self._complain(error)

    def end(self, later_s: float) -> bool:
        """The call is over; where it raised, or said nothing, nobody knows what it left, or leaves within `later_s`.

        False where not even that could be noted; should the process die, others find it among what still ran.
        """
        try:
            if not self._is_known:
                self._outbox.leave_unknown([self._about], datetime.now(UTC) + timedelta(seconds=later_s))
            self._running.end(self._slot)
        except (OSError, sqlite3.Error) as error:
            self._complain(error)
            return self._is_known
        return True
