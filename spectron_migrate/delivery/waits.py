"""How long recovery waits, and for what."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from spectron_migrate.delivery.run import Run

IN_FLIGHT_LIMIT_S = 900.0
"""How long to wait for a request that the server is still processing."""
MAX_TRIES = 6
"""How many doubtful responses to the same bytes there may be before recovery gives up for this run."""
LISTING_INTERVAL_S = 8.0
LATE_ARRIVAL_S = 120.0
"""A write counts as never having arrived only after listings have shown nothing for at least this long."""


def outlast_s(run: Run) -> float:
    """Seconds after which one of our requests can neither be on its way nor be in work at the server."""
    return max(LATE_ARRIVAL_S, run.api.timeout_s + LISTING_INTERVAL_S)


def late_listings(seconds: float) -> Sequence[float]:
    """Pauses before listings, this many seconds in all."""
    pause_s = min(LISTING_INTERVAL_S, seconds)
    return [pause_s] * ceil(seconds / pause_s)
