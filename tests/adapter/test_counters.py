"""What a process counts about itself."""

from __future__ import annotations

import threading
from typing import Any

from spectron_migrate.adapter.counters import ProcessCounters
from spectron_migrate.state.routing import Routing


def test_nobody_is_told_that_no_write_runs_while_one_reads_what_is_in_force() -> None:
    """Else a cutover could begin at that moment, and the write would not know of it."""
    counters = ProcessCounters()
    reading, go_on = threading.Event(), threading.Event()

    def current() -> Routing:
        reading.set()
        go_on.wait(10)
        return Routing(epoch=3)

    told: list[dict[str, Any]] = []
    write = threading.Thread(target=counters.began, args=(current,))
    heartbeat = threading.Thread(target=lambda: told.append(counters.snapshot()))
    write.start()
    assert reading.wait(10)
    heartbeat.start()
    heartbeat.join(0.05)
    assert [] == told
    go_on.set()
    heartbeat.join(10)
    write.join(10)
    assert 3 == told[0]["running_epoch"]
    counters.ended(3)
    assert counters.snapshot()["running_epoch"] is None


def test_a_child_process_counts_anew() -> None:
    counters = ProcessCounters()
    counters.read("mem0")
    counters.began(lambda: Routing(epoch=3))  # by another thread, which the child does not have
    counters.forget_after_fork()
    assert {"calls": {}, "reads": {}, "shadow": {}, "running_epoch": None} == counters.snapshot()
    counters.ended(3)
    assert counters.snapshot()["running_epoch"] is None
