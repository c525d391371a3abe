"""Commits writes that arrive together in one transaction: a commit costs as much as the write itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from spectron_migrate.local.storage import Store

Result = TypeVar("Result")
Work = Callable[[], Any]
WorkResult = tuple[Any, Exception | None]


class GroupedWrites:
    """Collects writes until the event loop has handled all waiting requests, then does them in one transaction.

    Each write is atomic by itself: if one raises, all are rolled back and each is done again in a transaction of its
    own. No write returns before all are committed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Work, asyncio.Future[Any]]] = []

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do a write; returns or raises what `work` does, once that is committed or rolled back."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((work, done))
        return await done

    def _flush(self) -> None:
        group, self._waiting = self._waiting, []
        works = [work for work, _ in group]
        outcomes = [self._attempt(works[0])] if len(works) == 1 else self._together(works)
        for (_, done), (result, error) in zip(group, outcomes, strict=True):
            if done.cancelled():
                continue
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

    def _together(self, works: list[Work]) -> list[WorkResult]:
        try:
            with self._store.transaction():
                return [(work(), None) for work in works]
        except Exception:
            return [self._attempt(work) for work in works]

    def _attempt(self, work: Work) -> WorkResult:
        try:
            with self._store.transaction():
                return work(), None
        except Exception as error:
            return None, error
