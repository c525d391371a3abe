"""Long lanes end together: the one with the most left goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.delivery import longest_lanes
from spectron_migrate.delivery.longest_lanes import MARGIN, LongestLanes
from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.proxy import misbehaving
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, write_raw


def test_the_longest_of_those_that_wait_is_next() -> None:
    lanes = LongestLanes()
    assert 2 == lanes.add({"a": 40, "b": 90, "c": 60}, at_work=["b", "x"])
    assert ["c", "a", None] == [lanes.take() for _ in range(3)]


def test_a_lane_gives_way_to_one_that_has_much_more_left_and_waits_for_its_turn() -> None:
    lanes = LongestLanes()
    lanes.add({"a": 100, "b": 100}, at_work=["a"])
    lanes.note_sent("a", MARGIN - 1)
    assert (False, None) == (lanes.should_give_way("a"), lanes.instead_of("a"))
    lanes.note_sent("a", 1)
    assert lanes.should_give_way("a")
    assert "b" == lanes.instead_of("a")
    assert (100 - MARGIN, "a") == (lanes.left("a"), lanes.take())


def test_a_lane_goes_on_if_another_took_the_longer_one_meanwhile() -> None:
    lanes = LongestLanes()
    lanes.add({"a": 40, "b": 100}, at_work=["a"])
    assert lanes.should_give_way("a")
    lanes.take()
    assert ("a", None) == (lanes.instead_of("a"), lanes.take())


def test_a_lane_that_is_not_one_of_the_long_ones_never_gives_way() -> None:
    lanes = LongestLanes()
    lanes.add({"a": 100}, at_work=[])
    lanes.note_sent("short", 8)
    assert (0, False) == (lanes.left("short"), lanes.should_give_way("short"))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 8))
def test_the_last_lane_ends_hardly_later_than_it_must(lengths: list[int], places: int) -> None:
    """Lanes that send one memory a step, in so many places: compared with the least number of steps there can be."""
    lanes = LongestLanes()
    lanes.add({str(lane): length for lane, length in enumerate(lengths)}, at_work=[])
    at_work, sent, steps = [lanes.take() for _ in range(places)], dict.fromkeys(range(len(lengths)), 0), 0
    while any(lane is not None for lane in at_work):
        steps += 1
        for place, lane in enumerate(at_work):
            if lane is None:
                continue
            sent[int(lane)] += 1
            lanes.note_sent(lane, 1)
            if not lanes.left(lane):
                at_work[place] = lanes.take()
            elif lanes.should_give_way(lane):
                at_work[place] = lanes.instead_of(lane)
    assert dict(enumerate(lengths)) == sent
    assert steps <= max(max(lengths), -(-sum(lengths) // places)) + MARGIN + 1


@pytest.mark.slow
def test_a_replay_of_more_lanes_than_it_works_on_at_once_ends_with_many_of_them(
    spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longest_lanes, "MARGIN", 8)
    users, each = 12, 40
    rows = [memory(number * users + user, f"{tmp_path.name}-{user}") for number in range(each) for user in range(users)]
    with misbehaving(spectron.base_url) as proxy:
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            write_raw(tmp_path / "all.json", rows),
            endpoint=proxy.base_url,
            options=ReplayOptions(max_in_flight=4),
        )
        sessions = [json.loads(seen.body)["session_id"] for seen in proxy.seen if seen.writes_fact]
    assert (ExitCode.DONE, users * each) == (summary.exit_code, summary.written)
    assert users == summary.sessions, "a lane goes on in the session that it left"
    assert len(set(sessions[-80:])) > 8, "where four lanes had not begun, they would be alone at the end"
