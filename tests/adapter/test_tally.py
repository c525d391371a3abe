"""What a process counts about itself."""

from __future__ import annotations

import threading
from typing import Any

from spectron_migrate.adapter.tally import Tally
from spectron_migrate.state.routing import Routing


def test_nobody_is_told_that_no_write_runs_while_one_reads_what_is_in_force() -> None:
    """Else a cutover could begin at that moment, and the write would not know of it."""
    tally = Tally()
    reading, go_on = threading.Event(), threading.Event()

    def current() -> Routing:
        reading.set()
        go_on.wait(10)
        return Routing(epoch=3)

    told: list[dict[str, Any]] = []
    write = threading.Thread(target=tally.began, args=(current,))
    heart = threading.Thread(target=lambda: told.append(tally.told()))
    write.start()
    assert reading.wait(10)
    heart.start()
    heart.join(0.05)
    assert [] == told
    go_on.set()
    heart.join(10)
    write.join(10)
    assert 3 == told[0]["running_epoch"]
    tally.ended(3)
    assert tally.told()["running_epoch"] is None


def test_a_child_process_counts_anew() -> None:
    tally = Tally()
    tally.read("mem0")
    tally.began(lambda: Routing(epoch=3))  # by another thread, which the child does not have
    tally.forget_after_fork()
    assert {"calls": {}, "reads": {}, "shadow": {}, "running_epoch": None} == tally.told()
    tally.ended(3)
    assert tally.told()["running_epoch"] is None
