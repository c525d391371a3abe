"""Histories that are asked for over HTTP, in the one shape that a history file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from spectron_migrate.mem0.served.http import Http, Rejected
from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Json

_PAGE = 100


class EventFeed:
    """The Platform's list of all changes, deleted memories included; read only where it is asked to be kept."""

    def __init__(self, http: Http, notes: list[str]) -> None:
        """Ask nothing yet; `notes` hear of a Platform that has no such list."""
        self._http = http
        self._notes = notes

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """The reader has put this into the rows already."""
        return None

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event as it stands, with a number of its own under `row`."""
        number = row = 0
        while True:
            number += 1
            try:
                page = self._http.get("/v1/memories/events/", page=number, limit=_PAGE)
            except Rejected as error:
                self._notes.append(f"the history was not kept whole: {error.message}")
                return
            events = page.get("results") if isinstance(page, dict) else page
            for event in events or []:
                row += 1
                yield {"row": row, **event}
            if not isinstance(page, dict) or not page.get("next"):
                return

    def close(self) -> None:
        """The reader owns the connection."""


class HistoryOfEach:
    """The self-hosted server's changes, memory by memory; of deleted ones it tells nothing."""

    def __init__(self, http: Http, memory_ids: Callable[[], Iterator[str]]) -> None:
        """`memory_ids` gives those that were read."""
        self._http = http
        self._memory_ids = memory_ids

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """The reader has put this into the rows already."""
        return None

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event of every memory, with a number of its own under `row`: a request each."""
        row = 0
        for memory_id in self._memory_ids():
            try:
                events = self._http.get(f"/memories/{quote(memory_id, safe='')}/history")
            except Rejected:
                continue  # it went since it was read
            for event in events or []:
                row += 1
                yield {"row": row, **event}

    def close(self) -> None:
        """The reader owns the connection."""


def text_came(events: Any, text: str) -> str | None:
    """When a memory last changed to this text, by its events; None where they do not end in it."""
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
    """An update carries the memory's creation too, where the server keeps both; the later one is its own."""
    times = [utc_time(event.get(name))[0] for name in ("created_at", "updated_at")]
    return max((time for time in times if time is not None), default=None)
