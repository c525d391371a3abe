"""Counts of one process: calls that Spectron cannot answer, where reads came from, shadow comparisons."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

MOST_NAMES = 200
"""The most calls that are counted by name. Most names come from an application's code, but some could contain data."""
OTHERS = "other calls"


class ProcessCounters:
    """Safe to use from several threads; a count costs a microsecond or two."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` with its zone."""
        self.changes = 0
        self._now = now
        self._lock = threading.Lock()
        self._calls: dict[str, Counter[str]] = {}
        self._reads: Counter[str] = Counter()
        self._last_read: datetime | None = None
        self._shadow: Counter[str] = Counter()

    def call(self, method: str, details: tuple[str, ...] = ()) -> None:
        """Count a call that Spectron cannot answer."""
        name = f"{method}({', '.join(sorted(set(details)))})" if details else method
        day = self._now().date().isoformat()
        with self._lock:
            if name not in self._calls and len(self._calls) >= MOST_NAMES:
                name = OTHERS
            self._calls.setdefault(name, Counter())[day] += 1
            self.changes += 1

    def read(self, where: str) -> None:
        """Count which system answered a search, or why Spectron did not."""
        with self._lock:
            self._reads[where] += 1
            self._last_read = self._now()
            self.changes += 1

    def reads(self, counts: Mapping[str, int]) -> None:
        """Count the hits that were left out of an answer, by reason."""
        with self._lock:
            self._reads.update(counts)

    def shadow(self, **sums: Any) -> None:
        """Add to the sums of the shadow reads."""
        with self._lock:
            self._shadow.update(sums)
            self.changes += 1

    def forget_after_fork(self) -> None:
        """In a child process: the counts are the parent's, and another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._calls, self._reads, self._shadow, self._last_read = {}, Counter(), Counter(), None

    @property
    def last_read(self) -> datetime | None:
        """When this process last searched; None if it never did."""
        return self._last_read

    def snapshot(self) -> dict[str, Any]:
        """The counts as `ProcessStatus` holds them."""
        with self._lock:
            return {
                "calls": {name: dict(days) for name, days in self._calls.items()},
                "reads": dict(self._reads),
                "shadow": {name: round(float(value), 4) for name, value in self._shadow.items()},
            }
