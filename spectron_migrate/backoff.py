"""How long to wait before a request is tried again: one rule for all clients (pure, except for the jitter)."""

from __future__ import annotations

import random
import re
from email.utils import parsedate_to_datetime


def backoff_s(
    attempt: int, *, first_s: float, longest_s: float, asked_s: float | None = None, jitter: bool = False
) -> float:
    """Seconds to wait after failed attempt number `attempt`, counted from 0: doubling from `first_s` to `longest_s`.

    `asked_s`: what the server asked for (`Retry-After`); the wait is never shorter. `jitter` shortens the wait by up to
    a half, at random, so that clients that failed together do not come back together.
    """
    wait_s = min(longest_s, first_s * 2.0 ** min(attempt, 32))
    if jitter:
        wait_s *= random.uniform(0.5, 1.0)
    return max(wait_s, asked_s or 0.0)


def retry_after_s(text: str | None, date: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for; None if it is missing or invalid.

    RFC 9110 allows a number or a date. A date is compared with the response's `Date`, the server's own clock.
    """
    if not text:
        return None
    if re.fullmatch(r"[0-9]+", text.strip()):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - parsedate_to_datetime(date or "")).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
