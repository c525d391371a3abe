"""Histories that are asked for over HTTP, in the one shape that a history file has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spectron_migrate.mem0.http import Http
from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Json

_PAGE = 100


class EventFeed:
    """The Platform's list of all changes, deleted memories included; read only where it is asked to be kept."""

    def __init__(self, http: Http) -> None:
        """Ask nothing yet."""
        self._http = http

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """The reader has put this into the rows already."""
        return None

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event as it stands, with a number of its own under `row`."""
        number = row = 0
        while True:
            number += 1
            page = self._http.get("/v1/memories/events/", page=number, limit=_PAGE)
            events = page.get("results") if isinstance(page, dict) else page
            for event in events or []:
                row += 1
                yield {"row": row, **event}
            if not isinstance(page, dict) or not page.get("next"):
                return

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
