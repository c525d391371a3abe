"""The short version of `replay_chaos`."""

from __future__ import annotations

import pytest

from tests.chaos.replay_chaos import CORNERS, run


@pytest.mark.timeout(300)
def test_killed_and_resumed_a_replay_stores_every_memory_once_in_order_in_its_scope() -> None:
    told = run(4, 1, print, (CORNERS[0], CORNERS[3]))
    assert 4 == told["kills"]
