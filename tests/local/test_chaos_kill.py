"""A short run of the kill -9 chaos; `chaos_kill.py` runs as long as one likes."""

from __future__ import annotations

import pytest

from tests.local import chaos_kill


@pytest.mark.timeout(300)
def test_no_acknowledged_write_is_lost_when_the_server_is_killed() -> None:
    """Nor is one there twice after it was sent again."""
    load = chaos_kill.run(rounds=4, writers=3, seed=1, report=lambda line: None)

    assert load.acknowledged
