"""The clock by which it is judged how long something may be relied on."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC counts on while the host sleeps."""


def seconds_with_sleep() -> float:
    """Seconds since some moment, including time in which the host was suspended; `time.monotonic` leaves that out.

    A virtual machine that was paused cannot notice it by any clock of its own.
    """
    return time.clock_gettime(_CLOCK)
