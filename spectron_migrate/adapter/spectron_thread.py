"""Sends queries to Spectron from an application's threads, through one event loop in a thread of its own.

While Mem0 can still answer, a search must not wait for retries or for a server that hangs. So it has one try, and fails
without an answer in time. If too many queries are under way, the next one fails at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from spectron_migrate.errors import Unreachable
from spectron_migrate.records import Hit, Selector
from spectron_migrate.settings.types import SpectronAccess

if TYPE_CHECKING:
    from spectron_migrate.spectron.api import SpectronApi

MOST = 64
"""The most queries under way at once. More would only wait for each other."""

END_S = 5.0
"""How long closing waits for the thread."""
GRACE_S = 2.0
"""How long queries under way may take to fail once the connections are closed."""

T = TypeVar("T")

_PARENTS: list[SpectronApi | None] = []
"""Connections of the parent process. They are kept, so that nothing in a child closes them."""


class Busy(Unreachable):
    """Too many queries are under way already."""


class Slow(Unreachable):
    """A query was not answered in time."""


@dataclass(frozen=True, slots=True)
class SpectronAnswer:
    """What Spectron answered, and how long that took."""

    rows: tuple[Hit, ...]
    seconds: float


class SpectronThread:
    """Safe to use from several threads; the first query starts the thread and opens connections."""

    def __init__(self, access: Callable[[], SpectronAccess]) -> None:
        """`access` is called at the first query; it may raise MigrateError if settings are missing."""
        self._access = access
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._api: SpectronApi | None = None
        self._under_way = 0
        self._finalizer: weakref.finalize[..., SpectronThread] | None = None

    @property
    def under_way(self) -> int:
        """Queries without an answer yet."""
        return self._under_way

    def query(self, text: str, lens: Selector, *, k: int, timeout_s: float, tries: int = 1) -> Future[SpectronAnswer]:
        """Send a query, with this much time for all tries; the future raises MigrateError.

        Raises Busy, and what `access` raises.
        """

        async def ask(api: SpectronApi) -> SpectronAnswer:
            began = time.monotonic()
            # By default Spectron hides near-duplicates of an older text, even if Mem0 has replaced that one.
            query = api.query(text, lens=lens, k=k, include_duplicates=True, tries=tries)
            try:
                recall = await asyncio.wait_for(query, timeout_s)
            except TimeoutError:
                raise Slow(
                    f"Spectron at {api.endpoint} did not answer a search within {timeout_s:g} s",
                    hint="is it up, and is the network? run the search again",
                ) from None
            return SpectronAnswer(recall.hits, time.monotonic() - began)

        return self.run(ask)

    def run(self, call: Callable[[SpectronApi], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine on the loop; the future has its outcome."""
        with self._lock:
            if self._under_way >= MOST:
                raise Busy(f"{MOST} queries to Spectron are under way already")
            loop, api = self._started()
            self._under_way += 1

        async def count() -> T:
            try:
                return await call(api)
            finally:
                with self._lock:
                    self._under_way -= 1

        return asyncio.run_coroutine_threadsafe(count(), loop)

    def forget_after_fork(self) -> None:
        """In a child process: the thread and the connections are the parent's. New ones are made when needed."""
        if self._finalizer is not None:
            self._finalizer.detach()
        _PARENTS.append(self._api)
        self._lock, self._loop, self._api, self._under_way = threading.Lock(), None, None, 0

    def close(self) -> None:
        """Close the connections and end the thread; queries under way fail."""
        with self._lock:
            self._loop = self._api = None
            finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer()

    def _started(self) -> tuple[asyncio.AbstractEventLoop, SpectronApi]:
        if self._loop is None or self._api is None:
            from spectron_migrate.spectron.api import SpectronApi

            access = self._access()
            self._api = SpectronApi(
                access.endpoint,
                access.context,
                api_key=access.api_key.reveal(),
                timeout_s=access.timeout_s,
                max_connections=MOST,
                read_tries=1,
            )
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(self._loop,), name="spectron-queries", daemon=True)
            # This also runs when the adapter is collected and at exit, for an application that never closes its
            # adapter.
            self._finalizer = weakref.finalize(self, _end, os.getpid(), self._loop, thread, self._api)
            thread.start()
        return self._loop, self._api


def _end(pid: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread, api: SpectronApi) -> None:
    """Close the connections and end the thread."""
    if pid != os.getpid() or loop.is_closed():
        return
    asyncio.run_coroutine_threadsafe(_wind_up(api), loop)
    if thread is not threading.current_thread():
        thread.join(END_S)


async def _wind_up(api: SpectronApi) -> None:
    loop = asyncio.get_running_loop()
    try:
        await api.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, slow = await asyncio.wait(others, timeout=GRACE_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            await api.close()  # a retry may have opened a connection again
    finally:
        loop.stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
