"""The journal of a cutover: every step is one durable line, and `routing.json` is never ahead of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.journal import (
    FILE,
    CaughtUp,
    JournalTruncated,
    StepConflict,
    publish_routing,
    read_journal,
    record_step,
)
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import MOST_BEHIND, Routing, name_of, read_routing
from tests.state.steps import AT, MIGRATION, step

START = step("start", migration=MIGRATION)


def take(folder: Path, *steps: Step) -> CutoverState:
    """Record steps one after the other; the state after the last."""
    for each in steps:
        state = record_step(folder, each)
    return state


def routing_in(folder: Path) -> Routing:
    routing = read_routing(folder)
    assert routing is not None
    return routing


def test_steps_add_up_to_a_state_and_the_routing_follows(tmp_path: Path) -> None:
    state = take(
        tmp_path, START, step("shift", percent=25.5), step("pin", spectron=("alice", "bob")), step("pin", mem0=("bob",))
    )
    expected = CutoverState(
        phase="shift",
        percent=25.5,
        pinned_to_spectron=frozenset({"alice"}),
        pinned_to_mem0=frozenset({"bob"}),
        epoch=4,
        migration=MIGRATION,
        fence=AT,
        changed_at=AT,
        ever_began=True,
        ever_shifted=AT,
    )
    assert expected == state
    assert expected == read_journal(tmp_path).state
    routing = routing_in(tmp_path)
    assert 4 == routing.epoch
    assert 25.5 == routing.percent
    assert {name_of(MIGRATION, "alice")} == routing.pinned_to_spectron


def test_a_revert_ends_all_shifts_and_pins(tmp_path: Path) -> None:
    take(tmp_path, START, step("shift", percent=25.5), step("pin", spectron=("alice",), mem0=("bob",)))
    state = record_step(tmp_path, step("revert", why="too slow"))
    assert "started" == state.phase
    assert 0 == state.percent
    assert not state.pinned_to_spectron | state.pinned_to_mem0
    assert "too slow" == read_journal(tmp_path).steps[-1].why


def test_an_abort_is_remembered(tmp_path: Path) -> None:
    state = take(tmp_path, START, step("abort"))
    assert "mem0" == state.phase
    assert state.ever_began
    assert not state.is_under_way
    assert ["start", "abort"] == [each.step for each in read_journal(tmp_path).steps]


def test_acceptances_end_with_their_cutover(tmp_path: Path) -> None:
    accept = step("accept", gate="refused", ids=("1",), why="a test row")
    assert (accept,) == take(tmp_path, START, accept).accepted
    assert () == take(tmp_path, step("abort"), START).accepted


def test_a_line_that_a_crash_cut_off_is_ignored_and_overwritten(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"n":2,"step":"shi')
    assert "started" == read_journal(tmp_path).state.phase
    record_step(tmp_path, step("shift", percent=5))
    assert [1, 2] == [json.loads(line)["n"] for line in (tmp_path / FILE).read_bytes().splitlines()]


def test_the_first_line_after_an_edit_is_reported(tmp_path: Path) -> None:
    assert take(tmp_path, START, step("shift", percent=5), step("revert")).altered is None
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(lines[0] + lines[1].replace(b'"percent":5', b'"percent":50') + lines[2])
    assert 3 == read_journal(tmp_path).state.altered


def test_a_line_that_is_no_step_is_an_error(tmp_path: Path) -> None:
    take(tmp_path, START, step("revert"))
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(lines[0] + b"nonsense\n" + lines[1])
    with pytest.raises(InputError, match=r"cutover\.jsonl:2 is not a step"):
        read_journal(tmp_path)


def test_of_two_steps_decided_in_the_same_state_the_second_is_refused(tmp_path: Path) -> None:
    decided_in = record_step(tmp_path, START)
    record_step(tmp_path, step("revert"), decided_in=decided_in)
    with pytest.raises(StepConflict, match="another step"):
        record_step(tmp_path, step("shift", percent=50), decided_in=decided_in)
    assert 0 == read_journal(tmp_path).state.percent


@pytest.mark.parametrize("left", ["old", "empty", "broken"])
def test_a_routing_that_a_crash_left_behind_is_updated(tmp_path: Path, left: str) -> None:
    record_step(tmp_path, START)
    old = (tmp_path / ROUTING_FILE).read_bytes()
    record_step(tmp_path, step("shift", percent=50))
    (tmp_path / ROUTING_FILE).write_bytes({"old": old, "empty": b"", "broken": b"{broken"}[left])
    routing = publish_routing(tmp_path, now=AT)
    assert routing == routing_in(tmp_path)
    assert 50 == routing_in(tmp_path).percent
    assert 2 == routing_in(tmp_path).epoch


def test_a_journal_with_missing_lines_publishes_nothing_and_takes_no_step_forward(tmp_path: Path) -> None:
    """Otherwise applications that already use Spectron alone would go back to Mem0."""
    take(tmp_path, START, step("shift", percent=100), step("closing"), step("complete"))
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:-2]))
    with pytest.raises(JournalTruncated):
        publish_routing(tmp_path, CaughtUp(AT, 1e12, frozenset()), now=AT)
    with pytest.raises(JournalTruncated):
        record_step(tmp_path, step("closing"))
    assert "complete" == routing_in(tmp_path).phase


def test_a_routing_keeps_who_is_caught_up_within_a_cutover_only(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    publish_routing(tmp_path, CaughtUp(AT, 123.0, frozenset({"alice"})), now=AT)
    record_step(tmp_path, step("shift", percent=50))
    kept = routing_in(tmp_path)
    assert AT == kept.as_of
    assert 123.0 == kept.fresh_until
    assert {name_of(MIGRATION, "alice")} == kept.behind
    take(tmp_path, step("abort"), replace(START, at="2026-11-22T11:00:00.000000Z"))
    fresh = routing_in(tmp_path)
    assert fresh.as_of is None
    assert 0.0 == fresh.fresh_until
    assert fresh.behind is None


def test_if_too_many_users_are_behind_to_list_everybody_is(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    many = frozenset(map(str, range(MOST_BEHIND + 1)))
    publish_routing(tmp_path, CaughtUp(AT, 123.0, many), now=AT)
    assert routing_in(tmp_path).behind is None


def test_after_complete_nobody_is_behind(tmp_path: Path) -> None:
    take(tmp_path, START, step("shift", percent=100), step("closing"), step("complete"))
    publish_routing(tmp_path, CaughtUp(AT, 123.0, None), now=AT)
    routing = routing_in(tmp_path)
    assert routing.fresh_until is None
    assert frozenset() == routing.behind
    assert "spectron" == routing.route(user_id="anybody")


def test_nothing_is_published_before_a_cutover_began(tmp_path: Path) -> None:
    assert publish_routing(tmp_path, CaughtUp(AT, 1.0, frozenset()), now=AT) is None
    assert CutoverState() == read_journal(tmp_path).state
    assert [] == list(tmp_path.iterdir())


KILLED = """
import sys
from pathlib import Path
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.cutover_state import Step
folder = Path(sys.argv[1])
record_step(folder, Step("start", "2026-11-22T10:00:00.000000Z", "a", migration="m" * 16))
print("begun", flush=True)
for percent in range(1, 10_000):
    record_step(folder, Step("shift", "2026-11-22T10:00:00.000000Z", "a", percent=percent / 100))
    print(percent, flush=True)
"""


@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_a_kill_loses_no_step_that_was_acknowledged(tmp_path: Path, steps: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(steps + 1):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = [int(line) for line in process.communicate()[0].split()]
    state = read_journal(tmp_path).state
    assert round(state.percent * 100) >= max([steps, *acknowledged])
    routing = publish_routing(tmp_path, now=AT)
    assert routing is not None
    assert state.percent == routing.percent
    assert state.epoch == routing.epoch
