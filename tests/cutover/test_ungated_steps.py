"""Start, revert, abort, and shifts back to Mem0: they take effect at once and need nothing but the state directory."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cutover import ungated_steps
from spectron_migrate.database.location import parse_location
from spectron_migrate.errors import ExitCode, InputError, MigrateError, NotConfirmed, NotLegal
from spectron_migrate.reporter import NullReporter
from spectron_migrate.state import processes
from spectron_migrate.state.cutover_state import CutoverState, Step, StepName
from spectron_migrate.state.journal import read_journal, record_step
from spectron_migrate.state.process_status import ProcessStatus
from spectron_migrate.state.routing import Routing, read_routing
from spectron_migrate.state.routing_reader import RoutingReader
from spectron_migrate.state.store import store_at
from tests.cutover.support import Operator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NOW = "2026-05-04T12:00:00.000000Z"

# -- start --------------------------------------------------------------------------------------------------


def process_status(own: processes.OwnFile, host: str) -> ProcessStatus:
    return ProcessStatus(host=host, pid=own.pid, began="", heartbeat="")


@pytest.mark.ledger_file  # a state in a database is that of all hosts
def test_outbox_is_refused_if_processes_on_another_host_use_the_state_directory(operator: Operator) -> None:
    state = operator.scene.state
    state.mkdir(exist_ok=True)
    own = processes.OwnFile(state)
    own.write(process_status(own, "another-host"))
    with pytest.raises(InputError, match="another-host"):
        ungated_steps.start(state, operator.migration, "outbox", **operator.signature)
    own.close()


def test_an_outbox_in_postgres_is_that_of_processes_on_any_host(operator: Operator, postgres_state: str) -> None:
    state = store_at(parse_location(postgres_state))
    own = processes.OwnFile(state)
    own.write(replace(process_status(own, "another-host"), epoch=1))
    result = ungated_steps.start(state, operator.migration, "outbox", **operator.signature)
    assert "outbox" == result.state.catch_up
    own.close()
    state.close()


def test_a_start_by_outbox_waits_until_every_process_captures_its_writes(operator: Operator) -> None:
    state, waits = operator.scene.state, 0
    state.mkdir(exist_ok=True)
    own = processes.OwnFile(state)
    status = process_status(own, socket.gethostname())
    own.write(status)

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            own.write(replace(status, epoch=1))

    result = ungated_steps.start(state, operator.migration, "outbox", **operator.signature, sleep=sleep)
    assert 3 == waits
    assert "outbox" == result.state.catch_up
    own.close()


def test_a_start_says_what_it_costs(operator: Operator) -> None:
    operator.start()
    assert [
        "what you give up: `erase` is refused until `cutover abort`, and for good once a read was shifted to Spectron"
    ] == operator.scene.reporter.lines


def test_start_and_revert_may_be_repeated(operator: Operator) -> None:
    operator.start()
    fence = operator.state.fence
    assert "had already begun" in operator.start().note
    assert fence == operator.state.fence
    assert "started" == operator.revert().state.phase
    assert "started" == operator.revert().state.phase


# -- shifts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [50.001, 100.5, -1])
def test_a_share_out_of_range_or_too_fine_is_refused(operator: Operator, percent: float) -> None:
    operator.start()
    with pytest.raises(InputError, match="it must be 0 to 100"):
        operator.shift(percent)


def test_single_users_are_shifted_as_a_whole(operator: Operator) -> None:
    operator.start()
    with pytest.raises(InputError, match="not 50 %"):
        operator.shift(50, "alice")


# -- revert and abort ---------------------------------------------------------------------------------------


def take(folder: Path, *names: StepName) -> None:
    for name in names:
        record_step(folder, Step(name, NOW, "anna", migration="m", percent=100.0))


def take_meanwhile(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: StepName) -> None:
    """Somebody else takes these steps after the next command was found legal and before it is recorded."""
    require_legal = ungated_steps.require_legal

    def slow(*args: Any, **named: Any) -> Any:
        state = require_legal(*args, **named)
        monkeypatch.setattr(ungated_steps, "require_legal", require_legal)
        take(folder, *names)
        return state

    monkeypatch.setattr(ungated_steps, "require_legal", slow)


def revert(folder: Path) -> None:
    ungated_steps.revert(folder, now=NOW, who="boris", reporter=NullReporter())


def abort(folder: Path) -> None:
    ungated_steps.abort(folder, yes=True, now=NOW, who="boris", reporter=NullReporter())


def state_of(folder: Path) -> CutoverState:
    return read_journal(folder).state


def routing_of(folder: Path) -> Routing:
    routing = read_routing(folder)
    assert routing is not None
    return routing


def test_an_abort_must_be_confirmed(operator: Operator) -> None:
    operator.record("start", "shift")
    with pytest.raises(NotConfirmed) as refused:
        operator.abort(yes=False)
    assert ExitCode.NOT_CONFIRMED == refused.value.exit_code
    assert "shift" == operator.state.phase


@pytest.mark.parametrize("step_back", [revert, abort])
def test_a_step_back_that_races_with_complete_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_back: Callable[[Path], None]
) -> None:
    take(tmp_path, "start", "shift", "closing")
    take_meanwhile(monkeypatch, tmp_path, "complete")
    with pytest.raises(NotLegal):
        step_back(tmp_path)
    assert "complete" == state_of(tmp_path).phase


def test_a_revert_that_races_with_an_abort_begins_no_cutover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(tmp_path, "start", "shift")
    take_meanwhile(monkeypatch, tmp_path, "abort")
    with pytest.raises(NotLegal):
        revert(tmp_path)
    assert "mem0" == state_of(tmp_path).phase


def test_a_revert_that_races_with_a_shift_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(tmp_path, "start")
    take_meanwhile(monkeypatch, tmp_path, "shift")
    revert(tmp_path)
    assert "started" == state_of(tmp_path).phase
    assert 0 == state_of(tmp_path).percent


def keep_steps(state: Path, count: int) -> None:
    """The journal loses all but its first lines."""
    store = store_at(state)
    store.write_lines("cutover.jsonl", store.lines("cutover.jsonl")[:count])


def test_a_revert_works_on_a_journal_that_lost_its_last_lines(tmp_path: Path) -> None:
    """As the error message about such a journal promises."""
    take(tmp_path, "start", "shift")
    keep_steps(tmp_path, 1)
    revert(tmp_path)
    assert "started" == state_of(tmp_path).phase
    assert 0 == state_of(tmp_path).percent


def test_an_abort_works_on_a_journal_that_lost_all_its_lines(tmp_path: Path) -> None:
    take(tmp_path, "start", "shift")
    keep_steps(tmp_path, 0)
    with pytest.raises(NotLegal):
        revert(tmp_path)
    abort(tmp_path)
    assert "mem0" == routing_of(tmp_path).phase
    assert 0 == routing_of(tmp_path).percent


@pytest.mark.parametrize("step_back", [revert, abort])
def test_a_step_back_is_refused_if_only_the_routing_still_says_complete(
    tmp_path: Path, step_back: Callable[[Path], None]
) -> None:
    take(tmp_path, "start", "shift", "closing", "complete")
    keep_steps(tmp_path, 3)
    with pytest.raises(MigrateError):
        step_back(tmp_path)
    assert "complete" == routing_of(tmp_path).phase


@pytest.mark.ledger_file  # something is in the file's way
def test_a_routing_that_could_not_be_written_is_reported_and_written_by_the_next_command(tmp_path: Path) -> None:
    take(tmp_path, "start", "shift")
    in_the_way = tmp_path / f".routing.json.{os.getpid()}.{threading.get_ident()}"
    in_the_way.mkdir()
    with pytest.raises(InputError, match=r"routing.json cannot be written: .*; applications still use the old one"):
        revert(tmp_path)
    in_the_way.rmdir()
    revert(tmp_path)
    assert "started" == routing_of(tmp_path).phase
    assert 0 == routing_of(tmp_path).percent


def test_another_cutover_begins_anew_after_an_abort(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.abort()
    assert "mem0" == operator.routing.phase
    assert "mem0" == operator.routing.route(user_id=operator.scene.user)
    operator.scene.time.pass_(1)
    operator.start()
    assert {"base", "reconciled", "lag", "verdict"} <= {each.name for each in operator.check().gates if not each.passed}


@pytest.mark.ledger_file  # it starts a process
def test_a_revert_on_the_command_line_needs_nothing_but_the_state_directory(operator: Operator) -> None:
    operator.record("start", "shift")
    folder = operator.scene.folder
    (folder / "spectron-migrate.yaml").write_text("this: is [no settings file")
    words = [sys.executable, "-m", "spectron_migrate", "cutover", "revert", "--json", "--reason", "panic"]
    without_state = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert ExitCode.INPUT == without_state.returncode
    done = subprocess.run([*words, "--state", "state"], cwd=folder, capture_output=True, text=True, check=False)
    assert 0 == done.returncode
    assert "started" == json.loads(done.stdout)["phase"]
    last = read_journal(operator.scene.state).steps[-1]
    assert "revert" == last.step
    assert "panic" == last.why
    assert getpass.getuser() in last.who


USERS = tuple(f"user{number}" for number in range(40))


@pytest.fixture
def readers(operator: Operator) -> Iterator[list[tuple[float, int]]]:
    """Four threads that read the routing all the time: when, and how many users they would read from Spectron."""
    operator.make_ready()
    operator.shift(50)
    seen: list[tuple[float, int]] = []
    stop = threading.Event()

    def read() -> None:
        store = store_at(operator.scene.state)
        reader = RoutingReader(store.folder or store, now=lambda: operator.scene.time.moment.timestamp())
        while not stop.is_set():
            routing, now = reader.current(), operator.scene.time.moment.timestamp()
            seen.append((time.monotonic(), sum(routing.route(user_id=each, now=now) == "spectron" for each in USERS)))
            stop.wait(0.01)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield seen
    stop.set()
    for thread in threads:
        thread.join()


def test_a_revert_reaches_readers_within_a_second(operator: Operator, readers: list[tuple[float, int]]) -> None:
    wait_until(lambda: len(readers) >= 40)
    assert 10 < readers[-1][1] < 30
    began = time.monotonic()
    operator.revert()
    wait_until(lambda: readers[-1][0] >= began + 1.5)
    late = max((moment - began for moment, count in readers if count and moment > began), default=0.0)
    print(f"{late:.3f} s until the last read by the old routing")
    assert late < 1.0
    assert 0 == readers[-1][1]
