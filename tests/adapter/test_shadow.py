"""Shadow reads, and the guard's way back, with real parts."""

from __future__ import annotations

import time

import pytest
from typer.testing import CliRunner

from spectron_migrate.adapter.guard import PROBES
from spectron_migrate.adapter.shadow import PAUSE_S
from spectron_migrate.cli.app import build_app
from tests.adapter.support import Stage, ids
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TEA = "Prefers green tea over coffee in the morning"


def settle(stage: Stage) -> None:
    """Until no background call is under way."""
    cores = [adapter._core for adapter in stage.opened]
    wait_until(lambda: not any(core.shadow.under_way or core.spectron_thread.under_way for core in cores))


def test_a_sample_of_searches_is_compared_in_the_background(stage: Stage) -> None:
    stage.write_settings(shadow=1)
    stage.say(TEA)
    adapter = stage.adapter()
    stage.start()
    stage.catch_up()
    for _ in range(3):
        adapter.search("green tea", filters={"user_id": stage.user})
        settle(stage)
    seen = stage.overview(adapter).shadow
    assert (3, 3, 3, 3) == tuple(seen[name] for name in ("asked", "answered", "compared", "overlap"))
    assert {"mem0": 3} == stage.overview(adapter).reads


def test_what_is_behind_is_not_compared(stage: Stage) -> None:
    stage.write_settings(shadow=1)
    stage.say(TEA)
    adapter = stage.adapter()
    stage.start()
    adapter.search("green tea", filters={"user_id": stage.user})
    assert {"dropped": 1} == stage.overview(adapter).shadow


def test_a_hanging_spectron_holds_no_search_up(own_stage: Stage) -> None:
    stage = own_stage
    stage.write_settings(shadow=1)
    tea = stage.say(TEA)
    stage.start()
    stage.catch_up()
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    adapter.search("green tea", **mine)
    stage.server.process.send_signal(19)  # SIGSTOP: it takes connections and answers nothing
    try:
        began = time.monotonic()
        for _ in range(30):
            assert [tea] == ids(adapter.search("green tea", **mine))
        assert time.monotonic() - began < adapter._core.patience_s
        assert adapter._core.shadow.under_way <= 4
    finally:
        stage.server.process.send_signal(18)
    assert 0 < stage.overview(adapter).shadow["dropped"]


def test_a_spectron_that_fails_is_left_alone_for_a_moment(own_stage: Stage) -> None:
    stage = own_stage
    stage.write_settings(shadow=1)
    stage.say(TEA)
    stage.start()
    stage.catch_up()
    adapter = stage.adapter()
    now = [0.0]
    adapter._core._clock = lambda: now[0]
    stage.server.kill()
    for moment in (0.0, 0.5, 0.9, PAUSE_S):
        now[0] = moment
        adapter.search("green tea", filters={"user_id": stage.user})
        settle(stage)
    assert {"asked": 2, "failed": 2, "dropped": 2} == stage.overview(adapter).shadow


def test_the_guard_comes_back_by_itself(own_stage: Stage) -> None:
    stage = own_stage
    stage.write_settings(guard={"window": "1s"})
    stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    stage.server.kill()
    for _ in range(3):
        adapter.search("green tea", **mine)
    assert "open" == adapter._core.guard.state
    stage.overview(adapter)
    shown = CliRunner().invoke(build_app("status"), ["status"])
    assert "back on Mem0" in shown.stdout
    stage.server.start()
    deadline = time.monotonic() + 60
    while adapter._core.guard.state != "closed":
        assert time.monotonic() < deadline
        adapter.search("green tea", **mine)
        settle(stage)
    adapter.search("green tea", **mine)
    reads = stage.overview(adapter).reads
    assert 1 == reads["spectron"]
    assert PROBES <= reads["guarded"]
