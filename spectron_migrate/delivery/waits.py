"""How long recovery waits, and for what."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from spectron_migrate.delivery.run import Run

IN_FLIGHT_LIMIT_S = 900.0
"""How long a request that the server is still processing is waited for."""
MAX_TRIES = 6
"""Doubtful responses to the same bytes before recovery gives up for this run."""
LISTING_INTERVAL_S = 8.0
LATE_ARRIVAL_S = 120.0
"""Listings must show nothing for at least so long before a write counts as never arrived."""


def outlast_s(run: Run) -> float:
    """Seconds that outlast a request of ours that may still be on its way, and the server's work on it."""
    return max(LATE_ARRIVAL_S, run.api.timeout_s + LISTING_INTERVAL_S)


def late_listings(seconds: float) -> Sequence[float]:
    """Pauses before listings that cover so many seconds."""
    pause_s = min(LISTING_INTERVAL_S, seconds)
    return [pause_s] * ceil(seconds / pause_s)
