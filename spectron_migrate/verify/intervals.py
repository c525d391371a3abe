"""Confidence intervals for the paired difference of two systems (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from spectron_migrate.quantiles import t_quantile

USERS_TO_RESAMPLE = 30
"""With at least this many users, an interval generalises to users; with fewer, to further queries of the same users."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval, and what it generalises to."""

    mean: float
    low: float
    high: float
    n: int
    """Number of `units` in the sample."""
    units: Literal["users", "queries", "all"]
    """`users`: users like these. `queries`: further queries of the same users. `all`: nothing was sampled."""


def most_of_none(n: int, *, confidence: float = 0.95) -> float:
    """The largest share (0 to 1) that is compatible with a sample of `n` without any case (exact binomial)."""
    return -math.expm1(math.log1p(-confidence) / n)


def paired_interval(
    differences: Mapping[str, Sequence[float]], *, confidence: float = 0.95, everything: bool = False
) -> Interval:
    """The mean difference between two systems; `differences` (-1 to 1) of one measure per query, by user.

    With `USERS_TO_RESAMPLE` users or more, every user has the same weight (queries of one user are not independent)
    and the interval is Student's over users. With fewer, every query has the same weight and the interval is
    stratified by user: it holds for these users only. `everything`: the queries cover every memory, so there is no
    sampling error. Raises ValueError without any difference.

    A sample without a single loss does not prove that there are none. So both intervals are widened by two
    pseudo-observations, one at +1 and one at -1 (Bonett and Price, 2012, for paired shares; the mean is unchanged).
    Without these, hundreds of equal answers would give an interval of zero width.
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
    """How many users (or queries) would show a difference above `-margin` if the mean stayed the same.

    None if no number would: the mean itself is at or below `-margin`.
    """
    distance, half = interval.mean + margin, interval.mean - interval.low
    if distance <= 0:
        return None
    return max(interval.n, math.ceil(interval.n * (half / distance) ** 2))


def _student(groups: list[list[float]], units: Literal["users", "queries"], confidence: float) -> Interval:
    """Student's interval of the mean of all values, from the variance within each group."""
    n = sum(map(len, groups))
    mean = fmean(value for group in groups for value in group)
    squares = 2.0  # the two pseudo-observations
    for group in groups:
        centre = fmean(group)
        squares += sum((value - centre) ** 2 for value in group)
    degrees = n + 2 - len(groups)
    half = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(squares / degrees / (n + 2))
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n, units)
