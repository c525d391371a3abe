"""Counts the requests of a wire: how many are under way, and how long the others took, by call and outcome."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets. The last bucket has no bound."""
CALLS = frozenset({"facts", "batch", "query", "context", "turns", "sessions", "scopes", "forget", "profile", "me"})
"""Last parts of paths that are counted by name. Any other could be an id."""


@dataclass(slots=True)
class Durations:
    """How long the requests of one kind took."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """How many took no longer than the bound of the bucket, but longer than that of the bucket before."""
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """One more request."""
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class Traffic:
    """Written by the wire's event loop alone; other threads may read it."""

    def __init__(self) -> None:
        """Begin with no requests."""
        self.under_way = 0
        self.durations: dict[tuple[str, str], Durations] = {}
        """By call (`facts`) and outcome (`200`, `in doubt`, `not begun`)."""

    def begin(self) -> float:
        """Note that a request begins. Pass the result to `end`."""
        self.under_way += 1
        return time.perf_counter()

    def end(self, began: float, path: str, outcome: str) -> None:
        """Note that the request has ended."""
        self.under_way -= 1
        call = path.rpartition("/")[2]
        key = (call if call in CALLS else "other", outcome)
        found = self.durations.get(key)
        if found is None:
            found = self.durations[key] = Durations()
        found.add(time.perf_counter() - began)
