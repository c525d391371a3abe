"""The guard goes back to Mem0 soon, and comes back late."""

from __future__ import annotations

from spectron_migrate.adapter.guard import PROBES, Guard
from spectron_migrate.settings.types import GuardSettings

BUDGET = GuardSettings(error_rate=0.02, p95_s=0.8, window_s=60.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Guard, Clock]:
    clock = Clock()
    return Guard(BUDGET, clock=clock), clock


def fail(guard: Guard, times: int) -> None:
    for _ in range(times):
        guard.note(0.1, failed=True)


def succeed(guard: Guard, times: int, seconds: float = 0.05) -> None:
    for _ in range(times):
        guard.note(seconds, failed=False)


def test_one_failure_is_chance_three_are_too_many() -> None:
    guard, _ = made()
    fail(guard, 2)
    assert "closed" == guard.state
    fail(guard, 1)
    assert "open" == guard.state
    assert "100.0% of 3 reads failed" == guard.reason
    assert 1 == guard.trips


def test_failures_within_the_budget_are_borne() -> None:
    guard, _ = made()
    succeed(guard, 200)
    fail(guard, 4)
    assert "closed" == guard.state
    fail(guard, 1)
    assert "open" == guard.state


def test_failures_of_long_ago_do_not_count() -> None:
    guard, clock = made()
    fail(guard, 2)
    clock.now += 61
    fail(guard, 1)
    assert "closed" == guard.state


def test_answers_that_take_too_long_send_it_back() -> None:
    guard, _ = made()
    succeed(guard, 20)
    succeed(guard, 2, seconds=1.0)
    assert "open" == guard.state
    assert "p95 is 1000 ms over 22 reads" == guard.reason


def test_it_comes_back_only_after_a_pause_and_a_row_of_good_answers() -> None:
    guard, clock = made()
    fail(guard, 3)
    assert not guard.may_probe()
    clock.now += 60
    assert "probing" == guard.state
    for _ in range(PROBES):
        assert guard.may_probe()
        assert not guard.may_probe()  # one at a time
        guard.probed(0.1, failed=False)
    assert "closed" == guard.state
    assert guard.since is None
    fail(guard, 2)  # what was before it went back is forgotten
    assert "closed" == guard.state


def test_a_bad_probe_makes_the_pause_longer() -> None:
    guard, clock = made()
    fail(guard, 3)
    clock.now += 60
    assert guard.may_probe()
    guard.probed(0.7, failed=False)  # within the budget, but not well within
    clock.now += 119
    assert "open" == guard.state
    clock.now += 1
    assert "probing" == guard.state
