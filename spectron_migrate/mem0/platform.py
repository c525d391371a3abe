"""Mem0's Platform, over its HTTP interface: everything once, proven against what it counts itself.

First one listing of whatever has a user, agent, app or run. Page numbers over a moving set skip rows, so the
set is frozen (created before the scan began), cut into windows of time small enough to page through, and each
window has to give as many rows as it announces. What changed since the scan began is listed at the end. Where
that falls short of the Platform's statistics, the kinds of owners that fall short are asked one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spectron_migrate.errors import Incomplete, KeyRefused
from spectron_migrate.mem0.http import Http, Rejected
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.platform_spool import Spool
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.mem0.tally import Tally
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, format_time

_PAGE = 200
_WINDOW = 10_000
"""Rows of a window: fifty pages, so that a page number stays small and a window is soon read again."""

_NARROWEST = timedelta(milliseconds=1)
_OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
_TRIES = 3
_PARALLEL = 4
_KINDS = ("user", "agent", "app", "run")
_FIELDS = {"user": "user_id", "agent": "agent_id", "app": "app_id", "run": "run_id"}
_OWNERS = {"user": "user_id", "agent": "agent_id", "app": "app_id", "run": "session_id"}

Filter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Rows created after one moment and up to another; None is open."""

    after: datetime | None
    until: datetime

    def filter(self) -> list[Filter]:
        """As the Platform's filters say it."""
        bounds: dict[str, str] = {"lte": format_time(self.until)}
        if self.after is not None:
            bounds["gt"] = format_time(self.after)
        return [{"created_at": bounds}]

    def halves(self) -> tuple[Window, Window] | None:
        """Two windows for one; an open one first gives up what is younger than a doubling span."""
        if self.after is None:
            span = datetime.now(UTC) - self.until
            middle = self.until - max(timedelta(days=90), span)
            return None if middle < _OLDEST else (Window(None, middle), Window(middle, self.until))
        if self.until - self.after <= _NARROWEST:
            return None
        middle = self.after + (self.until - self.after) / 2
        return Window(self.after, middle), Window(middle, self.until)
