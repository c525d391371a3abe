"""Measures of recall for one answer (pure).

A ranking is the memory ids of one answer, best first, each once. All measures lie between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def success_at_k(ranking: Sequence[str], expected: Collection[str], k: int) -> float:
    """1 if any expected memory is among the first `k`, else 0."""
    return float(any(item in expected for item in ranking[:k]))


def reciprocal_rank(ranking: Sequence[str], expected: Collection[str]) -> float:
    """1 / rank (from 1) of the first expected memory; 0 if there is none."""
    return next((1 / rank for rank, item in enumerate(ranking, start=1) if item in expected), 0.0)


def overlap_at_k(left: Sequence[str], right: Sequence[str], k: int) -> float:
    """Memories common to both top `k`, as a share of the longer of the two.

    Two empty answers agree: 1. It does not divide by `k`, which would penalise users who have few memories.
    """
    first, second = set(left[:k]), set(right[:k])
    longest = max(len(first), len(second))
    return len(first & second) / longest if longest else 1.0


def rbo_ext(left: Sequence[str], right: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated from lists cut off at unequal depths.

    Webber, Moffat and Zobel (2010), A similarity measure for indefinite rankings, equation 32. With p = 0.9 the
    first ten ranks carry 86 % of the weight. Two empty answers agree: 1. Raises ValueError for a repeated item.
    """
    for ranking in (left, right):
        if len(set(ranking)) != len(ranking):
            raise ValueError("a ranking names an item twice")
    shorter, longer = sorted((left, right), key=len)
    if not shorter:
        return float(not longer)
    s, depth = len(shorter), len(longer)
    overlaps = _overlaps(shorter, longer)
    agreed = sum(overlaps[d] / d * p**d for d in range(1, depth + 1))
    assumed = sum(overlaps[s] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    beyond = (overlaps[depth] - overlaps[s]) / depth + overlaps[s] / s
    return (1 - p) / p * (agreed + assumed) + beyond * p**depth


def ndcg_at_k(ranking: Sequence[str], expected: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain with one level of relevance; 0 if nothing is expected."""
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(set(expected))) + 1))
    gained = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], 1) if item in expected)
    return gained / ideal if ideal else 0.0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile (`share` from 0 to 1) by linear interpolation between the nearest ranks; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _overlaps(shorter: Sequence[str], longer: Sequence[str]) -> list[int]:
    """How many items both lists share down to each depth, beginning with depth 0."""
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    counts = [0]
    for depth, item in enumerate(longer):
        seen_long.add(item)
        new = int(item in seen_short)
        if depth < len(shorter):
            seen_short.add(shorter[depth])
            new += int(shorter[depth] in seen_long)
        counts.append(counts[-1] + new)
    return counts
