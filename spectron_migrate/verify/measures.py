"""Measures of recall, and intervals for their paired differences (pure).

A ranking is the memory ids of one answer, best first, each once. All measures lie between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

USERS_TO_RESAMPLE = 30
"""From so many users on an interval is about users; below, it is about further queries of these users."""

_SERIES_DEGREES = 200


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval, and what it speaks about."""

    mean: float
    low: float
    high: float
    n: int
    """How many `units` it rests on."""
    units: Literal["users", "queries", "all"]
    """`users`: users like these. `queries`: further queries of these very users. `all`: nothing was sampled."""


def success_at_k(ranking: Sequence[str], expected: Collection[str], k: int) -> float:
    """1 where any expected memory is among the first `k`, else 0."""
    return float(any(item in expected for item in ranking[:k]))


def reciprocal_rank(ranking: Sequence[str], expected: Collection[str]) -> float:
    """1 / the rank (from 1) of the first expected memory; 0 where there is none."""
    return next((1 / rank for rank, item in enumerate(ranking, start=1) if item in expected), 0.0)


def overlap_at_k(left: Sequence[str], right: Sequence[str], k: int) -> float:
    """The share of memories that both have among their first `k`, of those that the longer of the two has.

    Two empty answers agree: 1. Dividing by `k` instead would count it against a user to have few memories.
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


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share, such as the success of one system over `n` queries."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n, "queries")


def paired_interval(
    differences: Mapping[str, Sequence[float]], *, confidence: float = 0.95, everything: bool = False
) -> Interval:
    """The mean difference between two systems, from differences (-1 to 1) of their measures a query, by user.

    From `USERS_TO_RESAMPLE` users on: every user weighs the same, queries of one user are not independent, and
    the interval is Student's over the users. Below: every query weighs the same, and the interval is one within
    these users, stratified by user. `everything` says that the queries are all there are: no sampling error.

    A sample without a single loss does not prove that there are none. So both intervals are widened by two
    made-up units, one at +1 and one at -1 (Bonett and Price, 2012, for paired shares; the mean stays as it is),
    without which hundreds of equal answers would give an interval of no width.
    """
    groups = [list(values) for values in differences.values() if values]
    if not groups:
        raise ValueError("there is no difference to average")
    if everything:
        mean = fmean(value for group in groups for value in group)
        return Interval(mean, mean, mean, sum(map(len, groups)), "all")
    if len(groups) >= USERS_TO_RESAMPLE:
        means = [fmean(group) for group in groups]
        return _student([means], "users", confidence)
    return _student(groups, "queries", confidence)


def units_needed(interval: Interval, margin: float) -> int | None:
    """How many users (or queries) would show that the difference is above `-margin`, were the mean to stay so.

    None where no number would: the mean itself lies at or below `-margin`.
    """
    distance, half = interval.mean + margin, interval.mean - interval.low
    if distance <= 0:
        return None
    return max(interval.n, math.ceil(interval.n * (half / distance) ** 2))


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's distribution; `probability` strictly between 0 and 1."""
    if degrees < 1 or not 0 < probability < 1:
        raise ValueError(f"no quantile {probability} for {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    if degrees > _SERIES_DEGREES:
        return _t_of_many(NormalDist().inv_cdf(probability), degrees)
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _overlaps(shorter: Sequence[str], longer: Sequence[str]) -> list[int]:
    """How many items both lists share down to each depth, from 0."""
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


def _student(groups: list[list[float]], units: Literal["users", "queries"], confidence: float) -> Interval:
    """Student's interval of the mean over all values, from their spread inside each group."""
    n = sum(map(len, groups))
    mean = fmean(value for group in groups for value in group)
    squares = 2.0  # the two made-up units
    for group in groups:
        centre = fmean(group)
        squares += sum((value - centre) ** 2 for value in group)
    degrees = n + 2 - len(groups)
    half = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(squares / degrees / (n + 2))
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n, units)


def _t_below(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (step - 1) / step * cosine * cosine
    if odd:
        return 0.5 + (angle + sine * total) / math.pi
    return 0.5 + sine * total / 2


def _t_of_many(z: float, degrees: int) -> float:
    """The quantile from the normal one, by the series in 1/degrees (Abramowitz and Stegun 26.7.5)."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
