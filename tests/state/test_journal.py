"""The journal of a cutover: every step durable, in one line, and `routing.json` never ahead of it."""

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
from spectron_migrate.state.journal import (
    FILE,
    CaughtUp,
    CutoverState,
    Step,
    publish_routing,
    read_journal,
    record_step,
)
from spectron_migrate.state.routing import FILE as ROUTING
from spectron_migrate.state.routing import MOST_BEHIND, name_of, read_routing

AT = "2026-11-22T10:00:00.000000Z"


def step(name: str, **more: object) -> Step:
    return Step(name, AT, "anna@host (1)", **more)  # type: ignore[arg-type]


START = step("start", migration="m" * 16)


def test_steps_add_up_to_a_state_and_the_routing_follows(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    record_step(tmp_path, step("shift", percent=25.5))
    record_step(tmp_path, step("pin", spectron=("alice", "bob")))
    state = record_step(tmp_path, step("pin", mem0=("bob",)))
    assert ("shift", 25.5, {"alice"}, {"bob"}) == (
        state.phase,
        state.percent,
        state.pinned_to_spectron,
        state.pinned_to_mem0,
    )
    assert state == read_journal(tmp_path).state
    routing = read_routing(tmp_path / ROUTING)
    assert routing is not None
    assert (4, 25.5, {name_of("m" * 16, "alice")}) == (routing.epoch, routing.percent, routing.pinned_to_spectron)
    state = record_step(tmp_path, step("revert", why="too slow"))
    assert ("started", 0, frozenset(), frozenset()) == (
        state.phase,
        state.percent,
        state.pinned_to_spectron,
        state.pinned_to_mem0,
    )
    state = record_step(tmp_path, step("abort"))
    assert ("mem0", True, False) == (state.phase, state.ever_began, state.is_under_way)
    assert ["start", "shift", "pin", "pin", "revert", "abort"] == [each.step for each in read_journal(tmp_path).steps]
    assert "too slow" == read_journal(tmp_path).steps[4].why


def test_acceptances_and_pins_end_with_their_cutover(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    record_step(tmp_path, step("accept", gate="refused", ids=("1",), why="a test row"))
    assert [("refused", ("1",))] == [(each.gate, each.ids) for each in read_journal(tmp_path).state.accepted]
    record_step(tmp_path, step("abort"))
    assert () == record_step(tmp_path, START).accepted


def test_a_line_that_a_crash_cut_off_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"n":2,"step":"shi')
    assert "started" == read_journal(tmp_path).state.phase
    record_step(tmp_path, step("shift", percent=5))
    assert [1, 2] == [json.loads(line)["n"] for line in (tmp_path / FILE).read_bytes().splitlines()]


def test_a_journal_that_somebody_changed_is_told(tmp_path: Path) -> None:
    for each in (START, step("shift", percent=5), step("revert")):
        record_step(tmp_path, each)
    assert read_journal(tmp_path).state.altered is None
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(lines[0] + lines[1].replace(b'"percent":5', b'"percent":50') + lines[2])
    assert 3 == read_journal(tmp_path).state.altered
    (tmp_path / FILE).write_bytes(lines[0] + b"nonsense\n" + lines[2])
    with pytest.raises(InputError, match=r"cutover\.jsonl:2"):
        read_journal(tmp_path)


def test_of_two_that_decide_at_the_same_moment_one_is_told(tmp_path: Path) -> None:
    decided_in = record_step(tmp_path, START)
    record_step(tmp_path, step("revert"), decided_in=decided_in)
    with pytest.raises(InputError, match="another step"):
        record_step(tmp_path, step("shift", percent=50), decided_in=decided_in)
    assert 0 == read_journal(tmp_path).state.percent


def test_what_a_crash_left_between_journal_and_routing_is_mended(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    old = (tmp_path / ROUTING).read_bytes()
    record_step(tmp_path, step("shift", percent=50))
    for left in (old, b"", b"{broken"):
        (tmp_path / ROUTING).write_bytes(left)
        routing = publish_routing(tmp_path, now=AT)
        assert routing is not None
        assert (50, 2) == (routing.percent, routing.epoch)
        assert routing == read_routing(tmp_path / ROUTING)


def test_who_is_caught_up_survives_steps_but_not_another_start(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    publish_routing(tmp_path, CaughtUp(AT, 123.0, frozenset({"alice"})), now=AT)
    record_step(tmp_path, step("shift", percent=50))
    routing = read_routing(tmp_path / ROUTING)
    assert routing is not None
    assert (AT, 123.0, {name_of("m" * 16, "alice")}) == (routing.as_of, routing.fresh_until, routing.behind)
    record_step(tmp_path, step("abort"))
    record_step(tmp_path, replace(START, at="2026-11-22T11:00:00.000000Z"))
    routing = read_routing(tmp_path / ROUTING)
    assert routing is not None
    assert (None, 0.0, None) == (routing.as_of, routing.fresh_until, routing.behind)


def test_too_many_to_list_are_everybody(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    many = frozenset(map(str, range(MOST_BEHIND + 1)))
    routing = publish_routing(tmp_path, CaughtUp(AT, 123.0, many), now=AT)
    assert routing is not None
    assert routing.behind is None


def test_after_complete_nobody_is_behind_for_good(tmp_path: Path) -> None:
    record_step(tmp_path, START)
    for each in (step("shift", percent=100), step("closing"), step("complete")):
        record_step(tmp_path, each)
    publish_routing(tmp_path, CaughtUp(AT, 123.0, None), now=AT)
    routing = read_routing(tmp_path / ROUTING)
    assert routing is not None
    assert (None, frozenset()) == (routing.fresh_until, routing.behind)
    assert "spectron" == routing.route(user_id="anybody")


def test_nothing_is_published_where_no_cutover_ever_began(tmp_path: Path) -> None:
    assert publish_routing(tmp_path, CaughtUp(AT, 1.0, frozenset()), now=AT) is None
    assert CutoverState() == read_journal(tmp_path).state
    assert [] == list(tmp_path.iterdir())


KILLED = """
import sys
from pathlib import Path
from spectron_migrate.state.journal import Step, record_step
folder = Path(sys.argv[1])
record_step(folder, Step("start", "2026-11-22T10:00:00.000000Z", "a", migration="m" * 16))
print("begun", flush=True)
for percent in range(1, 10_000):
    record_step(folder, Step("shift", "2026-11-22T10:00:00.000000Z", "a", percent=percent / 100))
    print(percent, flush=True)
"""


@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_kill_9_at_any_moment_loses_no_step_that_was_told(tmp_path: Path, steps: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(steps + 1):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.communicate()[0].split()]
    state = read_journal(tmp_path).state
    assert round(state.percent * 100) >= max([steps, *told])
    routing = publish_routing(tmp_path, now=AT)
    assert routing is not None
    assert (state.percent, state.epoch) == (routing.percent, routing.epoch)
