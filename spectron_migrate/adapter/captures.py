"""Capturing what Mem0 stores, call by call, into the outbox. An application's call never fails for it."""

from __future__ import annotations

import logging
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from spectron_migrate.adapter.capture import results_of
from spectron_migrate.adapter.heart import Heart
from spectron_migrate.adapter.worker import Worker
from spectron_migrate.config.types import Settings, SpectronAccess
from spectron_migrate.errors import NotLegal
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.state.outbox import OtherHost, Outbox

_log = logging.getLogger("spectron_migrate.adapter")


class Captures:
    """The outbox as this process uses it, and its drainer. Opened once; where it cannot be, nothing is captured."""

    def __init__(
        self, settings: Settings, mapping: ScopeMapping, access: Callable[[], SpectronAccess], heart: Heart
    ) -> None:
        """Open the outbox and begin to drain; what goes wrong is told in the log, and by `refuse_other_host`."""
        self._heart = heart
        self._outbox: Outbox | None = None
        self._worker: Worker | None = None
        self._other_host: OtherHost | None = None
        self._said = False
        try:
            self._outbox = Outbox(settings.state, host=socket.gethostname())
        except OtherHost as error:
            self._other_host = error
            self._complain(error)
        except (OSError, sqlite3.Error) as error:
            self._complain(error)
        else:
            lag = settings.cutover.max_lag_s
            own = Outbox(settings.state, host=socket.gethostname())  # so that no write waits for its transactions
            self._worker = Worker(settings.state, own, mapping, access, max_lag_s=lag)

    def refuse_other_host(self) -> None:
        """Raises NotLegal where the outbox is another host's: only what this process writes would be missing there."""
        if self._other_host is not None:
            raise NotLegal(
                str(self._other_host),
                hint="with `cutover: {catch_up: follow}` any number of hosts may write: abort and start anew with it",
            )

    def begin(self, method: str, given: Mapping[str, Any], owners: Sequence[str]) -> Call | None:
        """Note that a call is about to be made; None where that could not be noted."""
        if self._outbox is None:
            return None
        try:
            number = self._outbox.begin(self._heart.process, owners, datetime.now(UTC))
        except sqlite3.Error as error:
            self._complain(error)
            return None
        return Call(self._outbox, number, method, given, self._complain)

    def close(self) -> None:
        """End the drainer and let go of the file."""
        if self._worker is not None:
            self._worker.close()

    def _complain(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            _log.warning("writes to Mem0 are not captured; reconciling will find them: %s", error)


class Call:
    """One call to Mem0 that is noted."""

    def __init__(
        self,
        outbox: Outbox,
        number: int,
        method: str,
        given: Mapping[str, Any],
        complain: Callable[[Exception], None],
    ) -> None:
        """`number`: of the call in the outbox."""
        self._outbox = outbox
        self._number = number
        self._method = method
        self._given = given
        self._complain = complain
        self._is_known = False

    def returned(self, answer: Any) -> None:
        """Mem0 answered: keep what it says that it stored."""
        results = results_of(self._method, self._given, answer)
        if results is None:
            return
        try:
            self._outbox.complete(self._number, results, datetime.now(UTC))
            self._is_known = True
        except sqlite3.Error as error:
            self._complain(error)

    def end(self) -> None:
        """The call is over; where it raised, or said nothing, nobody knows what it left."""
        if self._is_known:
            return
        try:
            self._outbox.leave_unknown([self._number])
        except sqlite3.Error as error:
            self._complain(error)
