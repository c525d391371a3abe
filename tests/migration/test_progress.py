"""What a replay reports while it runs: how far it is of all, what is in doubt, what was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, mapping_file
from tests.support.scene import RecordingReporter
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow


@pytest.fixture
def dump(user: str, tmp_path: Path) -> Path:
    return write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])


def test_a_resumed_replay_begins_where_the_last_one_stopped(
    spectron: RunningServer, dump: Path, tmp_path: Path
) -> None:
    reporter = RecordingReporter()
    replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=12), reporter=reporter)
    assert ("replay", 20, 0) == reporter.stages[-1]
    replay(spectron, tmp_path / "state", [dump], reporter=reporter)
    assert ("replay", 20, 12) == reporter.stages[-1]


def test_each_doubt_is_an_event_with_its_memory_and_what_the_server_said_in_one_word(
    spectron: RunningServer, user: str, dump: Path, tmp_path: Path
) -> None:
    left = ["500_after"]

    def fail_once(seen: Seen) -> Fault:
        return left.pop() if left and seen.writes_fact and b"number 3" in seen.body else "none"

    reporter = RecordingReporter()
    with misbehaving(spectron.base_url, fail_once) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, reporter=reporter)
    doubts = [each for each in reporter.events if each["event"] == "doubt"]
    assert [f"{user}-0003"] == [each["id"] for each in doubts]
    assert "500" == doubts[0]["why"]


@pytest.mark.parametrize("batch", [False, True])
def test_each_refusal_is_an_event_without_what_the_server_said(
    batch: bool, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "one.json", [memory(0, user, "a secret that the server repeats")])

    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this: a secret that the server repeats") if seen.writes_fact else "none"

    reporter = RecordingReporter()
    mapping = mapping_file(tmp_path, BATCH) if batch else None
    with misbehaving(spectron.base_url, refuse) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, reporter=reporter, mapping=mapping)
    assert [{"event": "refused", "id": f"{user}-0000", "status": 422}] == [
        each for each in reporter.events if each["event"] == "refused"
    ]
    assert "secret" not in str(reporter.events)
