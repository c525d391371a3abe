"""The oracle of the plays finds what a ledger cannot know: what it decided not to be stored, and is there."""

from __future__ import annotations

import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from tests.support.oracle import Watch, find_violations
from tests.support.proxy import Seen
from tests.support.replaying import TODAY, complete_scan, killed, mem0_row, replay_in_no_time, texts

pytestmark = pytest.mark.slow


@pytest.fixture
def decided(spectron: RunningServer, user: str, tmp_path: Path) -> Seen:
    """A write that was cut off, whose memory Mem0 then deleted, and that was decided not to be stored."""
    rows = [mem0_row(user, number, f"thing {number}") for number in range(3)]
    cut: list[Seen] = []

    def is_last(seen: Seen) -> bool:
        if b"thing 2" not in seen.body:
            return False
        cut.append(seen)
        return True

    killed(spectron, tmp_path, complete_scan(tmp_path / "dump", rows, TODAY - timedelta(days=1)), "cut_before", is_last)
    replay_in_no_time(spectron, tmp_path / "state", complete_scan(tmp_path / "dump", rows[:2], TODAY))
    return cut[0]


def violations(server: RunningServer, user: str, state: Path) -> list[str]:
    found = find_violations(server.database, state, [], load_mapping(None), finished=True)
    return [each for each in found if f"user/{user}" in each]


def test_what_lands_after_it_was_decided_not_to_be_stored_is_found(
    spectron: RunningServer, user: str, tmp_path: Path, decided: Seen
) -> None:
    assert ["thing 0", "thing 1"] == texts(spectron, user)
    assert [] == [each for each in violations(spectron, user, tmp_path / "state") if "nobody claims" in each]

    headers = {name: decided.headers[name] for name in ("authorization", "idempotency-key", "content-type")}
    late = urllib.request.Request(f"{spectron.base_url}{decided.path}", decided.body, headers)
    urllib.request.urlopen(late).close()

    assert ["thing 0", "thing 1", "thing 2"] == texts(spectron, user)
    found = violations(spectron, user, tmp_path / "state")
    assert 1 == len([each for each in found if "I2: nobody claims" in each and "thing 2" in each])


def test_after_such_a_decision_a_key_may_go_with_other_bytes_and_from_then_on_with_these_alone(
    tmp_path: Path, decided: Seen
) -> None:
    key = decided.headers["idempotency-key"]
    watch = Watch(tmp_path / "state", sent={key: decided.body, "another": b"bytes"})
    watch.begin_run()
    assert {"another": b"bytes"} == watch.sent
