"""Quantiles of Student's t distribution (pure)."""

from __future__ import annotations

import math
from statistics import NormalDist

_SERIES_DEGREES = 200


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution; raises ValueError unless 0 < `probability` < 1 and `degrees` >= 1."""
    if degrees < 1 or not 0 < probability < 1:
        raise ValueError(f"no quantile {probability} for {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    if degrees > _SERIES_DEGREES:
        return _t_quantile_series(NormalDist().inv_cdf(probability), degrees)
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


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


def _t_quantile_series(z: float, degrees: int) -> float:
    """The t quantile from the normal quantile `z`, by the series in 1/degrees (Abramowitz and Stegun 26.7.5)."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
