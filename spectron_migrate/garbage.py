"""Python's search for cyclic garbage, which somebody who reads many rows needs less often."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_OBJECTS = 50_000
"""Objects that are made between two searches: some megabytes. Python's own number is 700."""

_lock = Lock()
_inside: list[tuple[int, int, int]] = []
"""For each block that is being run, in any thread: the numbers from before the first of them."""


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Search less often within the block: rows are in no cycles, and looking at them takes a twentieth of an export."""
    with _lock:
        before = _inside[0] if _inside else gc.get_threshold()
        _inside.append(before)
        if before[0]:  # 0: the search is switched off
            gc.set_threshold(max(_OBJECTS, before[0]), *before[1:])
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                gc.set_threshold(*before)
