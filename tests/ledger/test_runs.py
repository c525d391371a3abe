"""What is noted of the last run: also what a killed run would otherwise have taken with it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.runs import LastRun, known_in_flight, last_run, record_run


def _now() -> str:
    return "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open_for_writing(tmp_path)


def test_the_next_run_knows_how_many_requests_the_server_allowed(ledger: Ledger) -> None:
    assert known_in_flight(ledger) is None
    with record_run(ledger, plan=1, stored=0, now=_now, add_outcome=lambda run: replace(run, in_flight=40.0)):
        pass
    assert 40.0 == known_in_flight(ledger)


def test_a_run_that_is_killed_keeps_what_the_run_before_it_knew(ledger: Ledger) -> None:
    def killed(run: LastRun) -> LastRun:
        raise KeyboardInterrupt

    with record_run(ledger, plan=1, stored=0, now=_now, add_outcome=lambda run: replace(run, in_flight=40.0)):
        pass
    with suppress(KeyboardInterrupt), record_run(ledger, plan=1, stored=0, now=_now, add_outcome=killed):
        pass
    last = last_run(ledger)
    assert last is not None
    assert last.ended is None
    assert 40.0 == known_in_flight(ledger)
