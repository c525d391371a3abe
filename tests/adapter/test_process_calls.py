"""What a process notes around its calls, as other processes see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.adapter import process_calls
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.state import call_log
from spectron_migrate.state.call_log import ANYBODY, FILE, CallSubject
from spectron_migrate.state.postgres_calls import PostgresCallLog
from spectron_migrate.state.processes import OwnFile
from spectron_migrate.state.routing import Routing
from tests.adapter.support import be_patient

ALICE = CallSubject(("alice",))
LATER = 1e12
"""A time that Spectron has caught up with long after everything in these tests."""


class Process(ProcessCalls):
    """One with a lock of its own, as if it were another process."""

    def __init__(self, state: Path) -> None:
        self.own = OwnFile(state)
        super().__init__(state, lambda: self.own.token)
        be_patient(self)

    def begin(self, subject: CallSubject = ALICE) -> str:
        number, routing = self.start(lambda: Routing(epoch=3))
        return self.note_begin(number, routing.epoch, time.time(), subject, capture=False)

    def write(self, at: float, subject: CallSubject = ALICE) -> None:
        self.note_end(self.begin(subject), at, None, subject, capture=False)


def test_a_call_is_seen_by_other_processes_while_it_runs_and_after(tmp_path: Path) -> None:
    mine, theirs = Process(tmp_path), Process(tmp_path)
    call = mine.begin()
    assert theirs.must_wait("alice", LATER)
    assert not theirs.must_wait("bob", 1.0)
    mine.note_end(call, 100.0, None, ALICE, capture=False)
    assert theirs.must_wait("alice", 100.0)
    assert not theirs.must_wait("alice", 100.5)


def test_a_process_that_begins_later_sees_what_was_written_before(tmp_path: Path) -> None:
    Process(tmp_path).write(100.0)
    assert Process(tmp_path).must_wait("alice", 100.0)


@pytest.mark.ledger_file  # a state without a directory is a directory that is not there
def test_without_a_state_directory_a_process_remembers_its_own_calls(tmp_path: Path) -> None:
    calls = ProcessCalls(tmp_path / "missing", lambda: None)
    call = calls.note_begin(1, 3, 99.0, ALICE, capture=True)
    assert calls.must_wait("alice", LATER)
    calls.note_end(call, 100.0, "[]", ALICE, capture=True)
    assert calls.must_wait("alice", 100.0)
    assert not calls.must_wait("alice", 101.0)
    assert not (tmp_path / "missing").exists()


def test_a_call_of_a_process_that_died_is_ended_by_another_one(tmp_path: Path) -> None:
    victim, other = Process(tmp_path), Process(tmp_path)
    victim.begin()
    victim.own.close()
    assert other.must_wait("alice", LATER)
    other.maintain(as_of=0.0, drained=True)
    assert other.must_wait("alice", time.time() - 1)
    assert not other.must_wait("alice", LATER)


def test_a_call_of_a_living_process_is_ended_by_nobody_else(tmp_path: Path) -> None:
    process, other = Process(tmp_path), Process(tmp_path)
    process.begin()
    assert other.must_wait("alice", LATER)
    other.maintain(as_of=0.0, drained=True)
    assert other.must_wait("alice", LATER)


NOTING = """
import sys, time
from pathlib import Path
from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.state.call_log import CallSubject
from spectron_migrate.state.processes import OwnFile
own, alice = OwnFile(Path(sys.argv[1])), CallSubject(("alice",))
calls = ProcessCalls(Path(sys.argv[1]), lambda: own.token)
for number in range(int(sys.argv[2])):
    last = round(time.time(), 6)
    calls.note_end(calls.note_begin(number, 1, last, alice, capture=False), last, None, alice, capture=False)
    assert calls.must_wait("alice", last)
    print(repr(last), flush=True)
"""


def noting(state: Path, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NOTING, str(state), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.ledger_file  # it starts processes
def test_what_a_process_notes_stays_and_nobody_waits_for_one_that_is_stopped(tmp_path: Path) -> None:
    reader = Process(tmp_path)
    processes = stopped, killed, running = [noting(tmp_path, times) for times in (10_000, 10_000, 500)]
    try:
        for process, how in ((stopped, signal.SIGSTOP), (killed, signal.SIGKILL)):
            assert process.stdout is not None
            assert reader.must_wait("alice", float(process.stdout.readline()))
            process.send_signal(how)
        told = running.communicate(timeout=60)[0].splitlines()
    finally:
        for process in processes:
            process.kill()
    assert 0 == running.returncode
    assert 500 == len(told)
    told += [line for process in (stopped, killed) for line in process.communicate()[0].splitlines()]
    last = max(float(line) for line in told)
    assert reader.must_wait("alice", last)
    assert Process(tmp_path).must_wait("alice", last)


@pytest.mark.slow
def test_more_than_a_thousand_processes_are_all_seen(tmp_path: Path) -> None:
    reader = Process(tmp_path)
    for number in range(1100):
        calls = ProcessCalls(tmp_path, lambda name=number: f"{name}:a")  # type: ignore[misc]
        be_patient(calls)
        subject = CallSubject((f"user{number}",))
        calls.note_end(calls.note_begin(1, 1, 99.0, subject, capture=False), 100.0, None, subject, capture=False)
        calls.close()
    assert all(reader.must_wait(f"user{number}", 100.0) for number in range(1100))
    assert not reader.must_wait("user0", 101.0)


# -- forks -------------------------------------------------------------------------------------------------


def in_child(check: object) -> None:
    """Run in a forked process; fails where the check returns False or raises."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os._exit(0 if check() else 1)  # type: ignore[operator]
        os._exit(1)
    assert (child, 0) == os.waitpid(child, 0)


def test_a_child_process_has_a_name_of_its_own_and_sees_its_parents_calls(tmp_path: Path) -> None:
    parent, reader = Process(tmp_path), Process(tmp_path)
    parent.write(100.0)
    parent.begin(CallSubject(("carol",)))

    def check() -> bool:
        parent.own.close()
        parent.own = OwnFile(tmp_path)
        parent.forget_after_fork()
        be_patient(parent)
        parent.write(200.0, CallSubject(("bob",)))
        return parent.must_wait("alice", 100.0) and parent.must_wait("carol", LATER)

    in_child(check)
    assert reader.must_wait("bob", 200.0)
    reader.maintain(as_of=0.0, drained=True)  # the child died, its parent lives
    assert reader.must_wait("carol", LATER)


def test_a_child_process_does_not_end_a_call_of_its_parent(tmp_path: Path) -> None:
    parent, reader = Process(tmp_path), Process(tmp_path)
    call = parent.begin()

    def check() -> bool:
        parent.own.close()
        parent.own = OwnFile(tmp_path)
        parent.forget_after_fork()
        be_patient(parent)
        parent.write(50.0, CallSubject(("bob",)))
        parent.note_end(call, 100.0, None, ALICE, capture=False)
        return parent.oldest_epoch is not None

    in_child(check)
    assert reader.must_wait("alice", LATER)
    parent.note_end(call, 100.0, None, ALICE, capture=False)
    assert not reader.must_wait("alice", LATER)


def test_a_child_process_does_not_wait_for_its_parents_lock(tmp_path: Path) -> None:
    parent = Process(tmp_path)
    parent.write(100.0)

    def check() -> bool:
        signal.alarm(10)
        parent.own = OwnFile(tmp_path)
        parent.forget_after_fork()
        be_patient(parent)
        parent.write(200.0)
        return parent.must_wait("alice", 200.0)

    log: Any = parent._log
    with parent._lock, log._state.lock if isinstance(log, PostgresCallLog) else log._lock:
        in_child(check)


# -- which step of the cutover -----------------------------------------------------------------------------


def test_nobody_learns_that_no_call_runs_while_one_reads_the_routing() -> None:
    """Else a cutover could begin at that moment, and the call would not know of it."""
    calls = ProcessCalls(Path("nowhere"), lambda: None)
    reading, go_on = threading.Event(), threading.Event()

    def current() -> Routing:
        reading.set()
        go_on.wait(10)
        return Routing(epoch=3)

    told: list[int | None] = []
    call = threading.Thread(target=calls.start, args=(current,))
    heartbeat = threading.Thread(target=lambda: told.append(calls.oldest_epoch))
    call.start()
    assert reading.wait(10)
    heartbeat.start()
    heartbeat.join(0.05)
    assert [] == told
    go_on.set()
    heartbeat.join(10)
    call.join(10)
    assert [3] == told
    calls.finish(1)
    assert calls.oldest_epoch is None


def test_a_child_process_runs_none_of_its_parents_calls() -> None:
    calls = ProcessCalls(Path("nowhere"), lambda: None)
    calls.start(lambda: Routing(epoch=3))  # by another thread, which the child does not have
    calls.forget_after_fork()
    assert calls.oldest_epoch is None


# -- room --------------------------------------------------------------------------------------------------


@pytest.mark.ledger_file  # of the disk
def test_a_log_that_nobody_drains_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `catch_up: follow` the follower reads Mem0, and perhaps on another host."""
    monkeypatch.setattr(process_calls, "CHECKPOINT", 10_000)
    monkeypatch.setattr(call_log, "LARGE", 20_000)
    process = Process(tmp_path)
    running = process.begin(CallSubject(("carol",)))
    process.note_end(running, 100.0, None, CallSubject(("carol",)), capture=False)
    for _ in range(2000):
        process.write(100.0)
        process.must_wait("alice", 1.0)
    process.maintain(as_of=time.time() + 3600, drained=False)
    status = (tmp_path / FILE).stat()
    assert status.st_blocks * 512 < 60_000 < 150_000 < status.st_size
    process.write(time.time() + 7200, CallSubject(("bob",)))
    assert Process(tmp_path).must_wait("bob", time.time() + 3600)


@pytest.mark.ledger_file  # a file beside the log tells others; of a database they learn it when it answers
def test_what_cannot_be_noted_holds_everybody_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, other = Process(tmp_path), Process(tmp_path)
    process.write(50.0)

    def full(line: str) -> None:
        raise OSError("No space left on device")

    assert process._log is not None
    with monkeypatch.context() as patched:
        patched.setattr(process._log, "append", full)
        process.write(time.time(), ANYBODY)
    assert other.must_wait("somebody", time.time() - 60)
    assert process.must_wait("somebody", time.time() - 60)


@pytest.mark.ledger_file  # the same
def test_a_process_that_cannot_take_a_name_lets_others_know_that_something_is_missing(tmp_path: Path) -> None:
    reader = Process(tmp_path)
    nameless = ProcessCalls(tmp_path, lambda: None)
    now = time.time()
    nameless.note_begin(1, 3, now, ALICE, capture=True)
    assert reader.must_wait("alice", now - 60)


@pytest.mark.ledger_file  # of a database the background has read all but the last moment
def test_a_search_does_not_wait_for_a_long_log_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_calls, "MOST_TAIL", 1000)
    writer, reader = Process(tmp_path), Process(tmp_path)
    for _ in range(30):
        writer.write(100.0)
    assert reader.must_wait("bob", LATER)
    reader.maintain(as_of=0.0, drained=True)
    assert not reader.must_wait("bob", LATER)
