"""Which lane goes on: of the long ones, the one with the most left.

A lane sends one memory after another, so a run lasts at least as long as its longest lane, and a lane that begins late
ends late. Therefore a long lane gives its place to one with more left. So all of them end at about the same time, and
until then there are as many requests in flight as may be.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from itertools import count

MOST = 4096
"""How many lanes are known by their length; the others are shorter than all of these."""
MARGIN = 16
"""A lane gives way to one that has at least this many memories more left, as changing costs some queries."""


class LongestLanes:
    """How much the long lanes have left, and which of them wait."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._waiting: list[tuple[int, int, str]] = []
        self._numbers = count()
        self._gives_way: set[str] = set()

    def add(self, left: Mapping[str, int], *, at_work: Collection[str]) -> int:
        """Learn of lanes with so many memories left; all but those `at_work` wait. Returns how many wait."""
        self._left |= left
        for lane in left.keys() - set(at_work):
            self._wait(lane)
        return len(self._waiting)

    def take(self) -> str | None:
        """The lane with the most left of those that wait; None if none does."""
        return heapq.heappop(self._waiting)[2] if self._waiting else None

    def left(self, lane: str) -> int:
        """How many memories the lane has left; 0 for a lane that is not one of the long ones."""
        return self._left.get(lane, 0)

    def note_sent(self, lane: str, memories: int) -> None:
        """So many memories of the lane are sent."""
        if lane in self._left:
            self._left[lane] = max(0, self._left[lane] - memories)

    def should_give_way(self, lane: str) -> bool:
        """Whether the lane stops, because another one has much more left; `instead_of` then says which one."""
        if lane not in self._left or not self._waiting or -self._waiting[0][0] < self._left[lane] + MARGIN:
            return False
        self._gives_way.add(lane)
        return True

    def instead_of(self, lane: str) -> str | None:
        """The lane that goes on in place of one that has stopped; None if that one did not give way."""
        if lane not in self._gives_way:
            return None
        self._gives_way.discard(lane)
        self._wait(lane)
        return self.take()

    def _wait(self, lane: str) -> None:
        heapq.heappush(self._waiting, (-self._left[lane], next(self._numbers), lane))
