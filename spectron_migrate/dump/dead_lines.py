"""Where the lines of a file are after others were left out."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from heapq import merge


class DeadLines:
    """Lines that were left out when a file was written again, and where the lines after them are now.

    Offsets are those of a log to which every line was appended that the file ever had. Dead lines that follow each
    other are one run, so there is at most one run more than there are living lines, of 16 bytes each.
    """

    def __init__(self) -> None:
        self._at = array("q")
        """Where each run begins."""
        self._left_out = array("q", [0])
        """Bytes in the runs before each run, and in all of them."""

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return self._left_out[-1]

    def add(self, offset: int, size: int) -> None:
        """Add a line that was left out, in ascending order."""
        if self._at and offset == self._at[-1] + self._left_out[-1] - self._left_out[-2]:
            self._left_out[-1] += size
        else:
            self._at.append(offset)
            self._left_out.append(self._left_out[-1] + size)

    def now(self, offset: int) -> int:
        """Where the line that began at this offset begins now."""
        return offset - self._left_out[bisect_left(self._at, offset)]

    def and_also(self, lines: Iterable[tuple[int, int]]) -> DeadLines:
        """These and other lines: offset and size of each, ascending, none of them among these."""
        both = DeadLines()
        for offset, size in merge(self._runs(), lines):
            both.add(offset, size)
        return both

    def _runs(self) -> Iterator[tuple[int, int]]:
        for number, offset in enumerate(self._at):
            yield offset, self._left_out[number + 1] - self._left_out[number]
