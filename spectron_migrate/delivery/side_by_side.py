"""Runs requests in parallel, and leaves none behind when others fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def begun(work: Coroutine[Any, Any, T]) -> Iterator[asyncio.Task[T]]:
    """Begin something that runs beside the block, and ends with it."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        if task.done() and not task.cancelled():
            task.exception()  # a failure that nobody is waiting for any more
        task.cancel()


def in_background(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin something that runs until its event loop ends, even if nobody asks for its result."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(retrieve_exception)
    return task


def retrieve_exception(request: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting a failed request whose result nobody asks for."""
    if not request.cancelled():
        request.exception()


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of it; raises the first failure once everything has ended."""
    done: list[T] = []
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
