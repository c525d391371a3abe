"""The clock for how long something may still be believed."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""On macOS, which has no CLOCK_BOOTTIME, CLOCK_MONOTONIC goes on while the host sleeps."""


def seconds_with_sleep() -> float:
    """Seconds since some moment, with those during which the host was suspended; `time.monotonic` leaves them out.

    A virtual machine that was paused cannot notice it by any clock of its own.
    """
    return time.clock_gettime(_CLOCK)
