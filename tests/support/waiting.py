"""Waiting for what another process or thread does; nothing else in a test waits for time to pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""Long enough for a loaded machine; nobody waits so long where all is well."""


def wait_until(
    holds: Callable[[], object],
    *,
    seconds: float = PATIENCE_S,
    every_s: float = 0.02,
    said: Callable[[], object] = str,
) -> None:
    """Until other threads or processes have come so far; `said` tells, where they do not, how far that is."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, said()
        threading.Event().wait(every_s)
