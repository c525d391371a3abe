"""Group commit: the changes of many lanes are committed together, with one fsync.

While facts are being sent, all access to the ledger goes through here, in one thread, so that a read sees everything
that was written before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from spectron_migrate.database.interface import Conflict
from spectron_migrate.errors import Unreachable
from spectron_migrate.ledger.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")


_TRIES = 20
_Waiting = tuple[Callable[[Ledger], Any], "asyncio.Future[Any] | None", bool]


def _call(change: Callable[..., T], args: tuple[Any, ...], named: dict[str, Any], ledger: Ledger) -> T:
    return change(ledger, *args, **named)


class GroupCommit:
    """Runs changes in the order in which they are submitted. All changes that are waiting go into one transaction."""

    def __init__(self, ledger: Ledger) -> None:
        """Until `close`, use the ledger only through this object."""
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._waiting: list[_Waiting] = []
        self._collected: dict[Callable[[Ledger, Sequence[Any]], object], list[Any]] = {}
        self._running: asyncio.Task[None] | None = None
        self._lost: Exception | None = None

    async def durable(self, change: Callable[Concatenate[Ledger, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Run `change(ledger, …)`. When this returns, it is on disk."""
        result: T = await self._add(partial(_call, change, args, named), durable=True)
        return result

    async def grouped(self, change: Callable[Concatenate[Ledger, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Run a change or a read.

        A change survives the end of the process at once, and a power cut after the next durable change.
        """
        result: T = await self._add(partial(_call, change, args, named), durable=False)
        return result

    def post(self, change: Callable[Concatenate[Ledger, P], object], *args: P.args, **named: P.kwargs) -> None:
        """Run a change like `grouped` without waiting for it.

        Later changes and reads come after it; if it fails, the next of them raises its error.
        """
        self._begin(partial(_call, change, args, named), None, durable=False)

    def collect(self, record: Callable[[Ledger, Sequence[T]], object], item: T) -> None:
        """Record an item like `post`, together with all items that wait for the same `record`.

        These run before anything else that waits.
        """
        self._collected.setdefault(record, []).append(item)
        self._wake()

    async def close(self) -> None:
        """Finish everything that waits; raises the error of a posted change."""
        while self._running is not None:
            await asyncio.wait({self._running})
        self._thread.shutdown()
        self._raise_lost()

    def _add(self, change: Callable[[Ledger], Any], *, durable: bool) -> asyncio.Future[Any]:
        self._raise_lost()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._begin(change, future, durable=durable)
        return future

    def _begin(self, change: Callable[[Ledger], Any], future: asyncio.Future[Any] | None, *, durable: bool) -> None:
        self._waiting.append((change, future, durable))
        self._wake()

    def _wake(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._drain())

    def _raise_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or self._collected:
                collected: list[_Waiting] = [
                    (partial(_call, record, (items,), {}), None, False) for record, items in self._collected.items()
                ]
                group, self._waiting, self._collected = [*collected, *self._waiting], [], {}
                try:
                    results = await loop.run_in_executor(self._thread, self._commit, group)
                except Exception as error:
                    for _, future, _ in group:
                        if future is None:
                            self._lost = error
                        elif not future.done():
                            future.set_exception(error)
                    continue
                for (_, future, _), result in zip(group, results, strict=True):
                    if future is not None and not future.done():
                        future.set_result(result)
        finally:
            self._running = None

    def _commit(self, group: list[_Waiting]) -> list[Any]:
        for _ in range(_TRIES):
            try:
                with self._ledger.transaction(durable=any(durable for _, _, durable in group)):
                    return [change(self._ledger) for change, _, _ in group]
            except Conflict:  # a conflict with another process: nothing of this change is committed
                continue
        raise Unreachable("the ledger is busy: other processes change the same rows", hint="run it again")
