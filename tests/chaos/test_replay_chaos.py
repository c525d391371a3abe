"""The short version of `replay_chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.errors import KeyRefused
from tests.chaos.replay_chaos import CORNERS, FORGETTING, run
from tests.support.here import server_here
from tests.support.oracle import server_turns
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_and_resumed_a_replay_stores_every_memory_once_in_order_in_its_scope() -> None:
    """Also where the server forgets its keys meanwhile, and the API key becomes another."""
    told = run(6, 2, print, (CORNERS[0], CORNERS[3], CORNERS[9]), changes=0.0)
    assert 6 == told["kills"]
    assert 0 < told["rotations"]
    assert 0 < sum(told[f"fault {name}"] for name in FORGETTING)


def test_where_the_read_grant_is_missing_nothing_is_sent(user: str, tmp_path: Path) -> None:
    """Writes would be answered 200 and every listing be empty: no doubt could ever be decided."""
    grants = {verb: ["user/*"] for verb in ("memory:write", "scope:read", "scope:create")}
    writer = {"writer": {"key": "sk-writer", "grants": grants}}
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with server_here(tmp_path / "data", context="tests", principals=writer) as server:
        with pytest.raises(KeyRefused, match="lacks memory:read"):
            replay(server, tmp_path / "state", [dump], api_key="sk-writer")
        assert [] == server_turns(server.database)
