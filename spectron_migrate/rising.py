"""The longest rising part of a sequence (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def longest_rising(numbers: Sequence[int]) -> set[int]:
    """The indices of a longest strictly rising subsequence (patience sorting)."""
    last: list[int] = []  # by length, the smallest number that ends a rising subsequence of that length
    last_index: list[int] = []
    previous: list[int] = []
    for index, number in enumerate(numbers):
        length = bisect_left(last, number)
        previous.append(last_index[length - 1] if length else -1)
        last[length : length + 1] = [number]
        last_index[length : length + 1] = [index]
    kept: set[int] = set()
    index = last_index[-1] if last_index else -1
    while index >= 0:
        kept.add(index)
        index = previous[index]
    return kept
