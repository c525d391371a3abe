"""The drainer inside an application: whichever process holds the outbox's lock delivers for all of them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.files.locks import try_lock_handle, unlock_handle
from spectron_migrate.settings.types import SpectronAccess
from spectron_migrate.state.outbox import LOCK, Outbox

if TYPE_CHECKING:
    from spectron_migrate.mapping import ScopeMapping
    from spectron_migrate.migration.drain_outbox import Drainer
    from spectron_migrate.spectron.api import SpectronApi

EVERY_S = 0.2
QUIET_S = 1.0
"""While nothing waits, what is caught up is told this often."""
TROUBLE_S = 5.0
"""The pause after a draining that failed."""

_log = logging.getLogger("spectron_migrate.adapter")


class Worker:
    """One thread; it drains while it holds the lock, and waits for it else. What fails is logged and tried again."""

    def __init__(
        self,
        state: Path,
        outbox: Outbox,
        mapping: ScopeMapping,
        access: Callable[[], SpectronAccess],
        *,
        max_lag_s: float,
    ) -> None:
        """Begin, with an `outbox` of its own. The thread is a daemon: delivery may be cut at any moment."""
        self._state = state
        self._outbox = outbox
        self._mapping = mapping
        self._access = access
        self._max_lag_s = max_lag_s
        self._closed = threading.Event()
        self._said = ""
        self._look_at = float("-inf")
        threading.Thread(target=self._run, name="spectron-drainer", daemon=True).start()

    def close(self) -> None:
        """End after the draining that runs."""
        self._closed.set()

    def _run(self) -> None:
        handle = os.open(self._state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not self._closed.is_set():
                if try_lock_handle(handle):
                    asyncio.run(self._drain_for_ever())
                    unlock_handle(handle)
                self._closed.wait(1.0)
        finally:
            os.close(handle)

    async def _drain_for_ever(self) -> None:
        from spectron_migrate.migration.drain_outbox import Drainer
        from spectron_migrate.spectron.api import SpectronApi

        drainer = Drainer(self._state, self._mapping, self._outbox, max_lag_s=self._max_lag_s)
        api: SpectronApi | None = None
        while not self._closed.is_set():
            try:
                if api is None:
                    access = self._access()
                    key = access.api_key.reveal()
                    api = SpectronApi(access.endpoint, access.context, api_key=key, timeout_s=access.timeout_s)
                pause = await self._drain(drainer, api)
            except InputError as error:  # what another process may not suffer from: it shall try
                self._complain(error)
                break
            except Exception as error:  # nothing of it may reach the application; it is tried again
                self._complain(error)
                pause = TROUBLE_S
            await asyncio.sleep(pause)
        if api is not None:
            await api.close()

    async def _drain(self, drainer: Drainer, api: SpectronApi) -> float:
        if not self._outbox.waits() and time.monotonic() < self._look_at:
            return EVERY_S
        self._look_at = time.monotonic() + QUIET_S
        try:
            await drainer.drain(api)
        except LedgerLocked:
            return 1.0  # a round reads Mem0, or somebody replays
        self._said = ""
        return EVERY_S

    def _complain(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {getattr(error, 'message', None) or error}"[:300]
        if said != self._said:
            _log.warning("the outbox could not be drained: %s", said)
            self._said = said
