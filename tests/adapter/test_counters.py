"""What a process counts about itself."""

from __future__ import annotations

from spectron_migrate.adapter.counters import ProcessCounters


def test_a_child_process_counts_anew() -> None:
    counters = ProcessCounters()
    counters.read("mem0")
    counters.forget_after_fork()
    assert {"calls": {}, "reads": {}, "shadow": {}} == counters.snapshot()
