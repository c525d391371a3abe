"""Run an async function over many items with a bounded number in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, in_flight: int) -> None:
    """Await `work(item)` for every item, at most `in_flight` at a time; the iterable is read lazily.

    The first error cancels the rest and is raised bare, not inside an exception group.
    """
    shared = iter(items)

    async def worker() -> None:
        for item in shared:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, in_flight)):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
