"""Mem0's history over HTTP, in the format of a history file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.repeated_pages import RepeatedPages
from spectron_migrate.mem0.served.http import JsonClient, Rejected
from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Json

_PAGE = 100


class PlatformHistory:
    """The Platform's list of all changes, deleted memories included. It is read only if the history is to be kept."""

    def __init__(self, http: JsonClient, notes: list[str]) -> None:
        """Sends no request yet. A note is added to `notes` if the Platform has no such list."""
        self._http = http
        self._notes = notes

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """Always None, because the reader has already set the time in its rows."""
        return None

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event, unchanged, with a number under `row`."""
        number = row = 0
        repeated = RepeatedPages("the events of the Platform")
        while True:
            number += 1
            try:
                page = self._http.get("/v1/memories/events/", page=number, limit=_PAGE)
            except Rejected as error:
                self._notes.append(f"the history was not kept completely: {error.message}")
                return
            events = page.get("results") if isinstance(page, dict) else page
            try:
                repeated.note(events or [])
            except Incomplete as problem:
                self._notes.append(f"the history was not kept completely: {problem.message}")
                return
            for event in events or []:
                row += 1
                yield {"row": row, **event}
            if not isinstance(page, dict) or not page.get("next"):
                return

    def close(self) -> None:
        """Does nothing, because the connection belongs to the reader."""


class ServerHistory:
    """The self-hosted server's changes, memory by memory. Those of deleted memories are not available."""

    def __init__(self, http: JsonClient, memory_ids: Callable[[], Iterator[str]]) -> None:
        """`memory_ids` yields the ids that were read."""
        self._http = http
        self._memory_ids = memory_ids

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """None: the reader has already set the time in its rows."""
        return None

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event of every memory, with a number under `row`; one request for each memory."""
        row = 0
        for memory_id in self._memory_ids():
            try:
                events = self._http.get(f"/memories/{quote(memory_id, safe='')}/history")
            except Rejected:
                continue  # the memory was deleted after it was read
            for event in events or []:
                row += 1
                yield {"row": row, **event}

    def close(self) -> None:
        """Nothing to close: the connection belongs to the reader."""


def text_changed_at(events: Any, text: str) -> str | None:
    """When a memory last changed to this text, according to its events; None if its last text is another one."""
    if not isinstance(events, list):
        return None
    changes = [
        (at, event.get("new_memory"))
        for event in events
        if isinstance(event, dict) and event.get("new_memory") != event.get("old_memory")
        for at in [_moment(event)]
        if at is not None
    ]
    if not changes:
        return None
    at, last = max(changes, key=lambda change: change[0])
    return at if last == text else None


def _moment(event: dict[str, Any]) -> str | None:
    """The time of an event: the later of its two times, because an update may also hold the memory's creation time."""
    times = [utc_time(event.get(name))[0] for name in ("created_at", "updated_at")]
    return max((time for time in times if time is not None), default=None)
