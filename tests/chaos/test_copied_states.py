"""The short version of `copied_states`."""

from __future__ import annotations

import pytest

from tests.chaos.copied_states import CORNERS, run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
def test_a_copied_state_doubles_and_loses_nothing_and_what_is_refused_says_how_to_go_on() -> None:
    told = run(2, 1, print, (CORNERS[1], CORNERS[2]))
    ends = ("none doubled, none lost", "adopted, none doubled, none lost", "the copy ended with 0")
    assert 2 <= sum(told[end] for end in ends)
