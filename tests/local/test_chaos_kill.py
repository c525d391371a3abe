"""A short run of `chaos_kill.py`, which can run for any time."""

from __future__ import annotations

import pytest

from tests.local import chaos_kill

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_a_killed_server_loses_no_acknowledged_write_and_doubles_none_that_is_resent() -> None:
    load = chaos_kill.run(rounds=4, writers=3, seed=1, report=lambda line: None)

    assert load.acknowledged
