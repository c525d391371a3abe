"""A stopped verification is resumed, but never with old answers about a new state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.errors import Unreachable
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.state.store import store_at
from spectron_migrate.verify.options import VerifyOptions
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import RecordingReporter, verify

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(spectron: RunningServer, user: str, tmp_path: Path) -> Path:
    """A dump of 40 memories whose verification lost the server half-way."""
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(40)])
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "none" if seen.number < 30 else "500_before"
        with pytest.raises(Unreachable):
            verify(spectron, tmp_path / "state", [dump], VerifyOptions(in_flight=1), endpoint=proxy.base_url)
    return dump


def asked_in_full(spectron: RunningServer, state: Path, dump: Path, **more: object) -> tuple[int, list[str], str]:
    reporter = RecordingReporter()
    with misbehaving(spectron.base_url) as proxy:
        summary = verify(
            spectron,
            state,
            [dump],
            VerifyOptions(in_flight=1),
            endpoint=proxy.base_url,
            reporter=reporter,
            **more,  # type: ignore[arg-type]
        )
        return len(proxy.seen), reporter.messages, summary.verdict


def test_a_resumed_run_does_not_repeat_what_was_checked(spectron: RunningServer, stopped: Path, tmp_path: Path) -> None:
    # The endpoint is part of what a run is about, so the same server is reached under its own name.
    first = RecordingReporter()
    state = tmp_path / "state"
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "none" if seen.number < 30 else "500_before"
        with pytest.raises(Unreachable):
            verify(spectron, state, [stopped], VerifyOptions(in_flight=1), endpoint=proxy.base_url, reporter=first)
        before = len(proxy.seen)
        proxy.choose = lambda seen: "none"
        second = RecordingReporter()
        summary = verify(
            spectron, state, [stopped], VerifyOptions(in_flight=1), endpoint=proxy.base_url, reporter=second
        )
        resumed = len(proxy.seen) - before
    whole, _, verdict = asked_in_full(spectron, state, stopped)
    assert "GO" == summary.verdict == verdict
    assert [] == first.messages
    assert second.messages[0].startswith("resuming the verification")
    assert resumed <= whole - 20


def test_a_finished_run_removes_its_workspace_and_the_next_checks_everything(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(5)])
    replay(spectron, tmp_path / "state", [dump])
    first = asked_in_full(spectron, tmp_path / "state", dump)
    second = asked_in_full(spectron, tmp_path / "state", dump)
    assert first[0] == second[0]
    assert [] == second[1]
    assert [] == list(store_at(tmp_path / "state").work_folder.glob("verify.db*"))


def test_a_run_is_not_resumed_after_the_ledger_has_changed(
    spectron: RunningServer, stopped: Path, tmp_path: Path, user: str
) -> None:
    workspace = store_at(tmp_path / "state").work_folder / "verify.db"
    assert 0o600 == workspace.stat().st_mode & 0o777
    more = write_raw(tmp_path / "more.json", [memory(number, user) for number in range(41)])
    replay(spectron, tmp_path / "state", [more])
    _, lines, verdict = asked_in_full(spectron, tmp_path / "state", more)
    assert [] == lines
    assert "GO" == verdict


def test_an_old_unfinished_run_is_not_resumed(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(40)])
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "none" if seen.number < 30 else "500_before"
        with pytest.raises(Unreachable):
            verify(spectron, tmp_path / "state", [dump], VerifyOptions(in_flight=1), endpoint=proxy.base_url)
        proxy.choose = lambda seen: "none"
        reporter = RecordingReporter()
        verify(
            spectron,
            tmp_path / "state",
            [dump],
            VerifyOptions(in_flight=1),
            endpoint=proxy.base_url,
            reporter=reporter,
            now=lambda: datetime.now(UTC) + timedelta(days=1),
        )
    assert [] == reporter.messages
