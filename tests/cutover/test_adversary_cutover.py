"""What a hostile reviewer tried on the cutover, where it once gave way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cutover import ungated_steps
from spectron_migrate.cutover.gates import evaluate_gates
from spectron_migrate.errors import InputError, MigrateError, NotLegal
from spectron_migrate.records import NullReporter
from spectron_migrate.state.journal import Step, StepName, read_journal, record_step
from spectron_migrate.state.routing import read_routing
from tests.cutover.test_gates import GOOD

NOW = "2026-05-04T12:00:00.000000Z"


def taken(folder: Path, *names: StepName) -> None:
    for name in names:
        record_step(folder, Step(name, NOW, "anna", migration="m", percent=100.0))


def meanwhile(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: StepName) -> None:
    """Somebody else takes these steps after ours was found to be legal, and before it is written."""
    look = ungated_steps.require_legal

    def slow(*args: Any, **named: Any) -> Any:
        state = look(*args, **named)
        monkeypatch.setattr(ungated_steps, "require_legal", look)
        taken(folder, *names)
        return state

    monkeypatch.setattr(ungated_steps, "require_legal", slow)


def revert(folder: Path) -> None:
    ungated_steps.revert(folder, now=NOW, who="boris", reporter=NullReporter())


def abort(folder: Path) -> None:
    ungated_steps.abort(folder, yes=True, now=NOW, who="boris", reporter=NullReporter())


@pytest.mark.parametrize("back", [revert, abort])
def test_no_way_leads_back_from_complete_not_even_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: Callable[[Path], None]
) -> None:
    taken(tmp_path, "start", "shift", "closing")
    meanwhile(monkeypatch, tmp_path, "complete")
    with pytest.raises(NotLegal):
        back(tmp_path)
    assert "complete" == read_journal(tmp_path).state.phase


def test_a_revert_at_the_moment_of_an_abort_begins_no_cutover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(tmp_path, "start", "shift")
    meanwhile(monkeypatch, tmp_path, "abort")
    with pytest.raises(NotLegal):
        revert(tmp_path)
    assert "mem0" == read_journal(tmp_path).state.phase


def test_a_revert_at_the_moment_of_another_step_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(tmp_path, "start")
    meanwhile(monkeypatch, tmp_path, "shift")
    revert(tmp_path)
    assert ("started", 0) == (read_journal(tmp_path).state.phase, read_journal(tmp_path).state.percent)


def test_reads_go_back_although_the_journal_lost_its_last_lines(tmp_path: Path) -> None:
    """As the message about such a journal promises."""
    taken(tmp_path, "start", "shift")
    path = tmp_path / "cutover.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    revert(tmp_path)
    assert ("started", 0) == (read_journal(tmp_path).state.phase, read_journal(tmp_path).state.percent)


def test_a_journal_of_which_nothing_is_left_can_be_aborted(tmp_path: Path) -> None:
    taken(tmp_path, "start", "shift")
    (tmp_path / "cutover.jsonl").write_bytes(b"")
    with pytest.raises(NotLegal):
        revert(tmp_path)
    abort(tmp_path)
    routing = read_routing(tmp_path / "routing.json")
    assert routing is not None
    assert ("mem0", 0) == (routing.phase, routing.percent)


@pytest.mark.parametrize("back", [revert, abort])
def test_no_way_leads_back_from_complete_where_the_journal_lost_that_line(
    tmp_path: Path, back: Callable[[Path], None]
) -> None:
    taken(tmp_path, "start", "shift", "closing", "complete")
    path = tmp_path / "cutover.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(MigrateError):
        back(tmp_path)
    routing = read_routing(tmp_path / "routing.json")
    assert routing is not None
    assert "complete" == routing.phase


def test_a_routing_that_cannot_be_written_is_said_and_written_by_the_next_command(tmp_path: Path) -> None:
    taken(tmp_path, "start", "shift")
    in_the_way = tmp_path / f".routing.json.{os.getpid()}.{threading.get_ident()}"
    in_the_way.mkdir()
    with pytest.raises(InputError, match=r"routing.json cannot be written: .*; applications still use the old one"):
        revert(tmp_path)
    in_the_way.rmdir()
    revert(tmp_path)
    routing = read_routing(tmp_path / "routing.json")
    assert routing is not None
    assert ("started", 0) == (routing.phase, routing.percent)


def test_evidence_from_the_future_is_no_fresh_evidence() -> None:
    """A clock that was a year ahead for one day would make it last for a year."""
    back = replace(GOOD, now=GOOD.now - timedelta(days=365))
    passed = {gate.name for gate in evaluate_gates(back) if gate.passed}
    assert set() == passed & {"lag", "reconciled", "verdict"}
