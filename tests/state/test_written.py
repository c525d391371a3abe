"""Who wrote when, over all processes of a host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.state.written import Written
from tests.support.waiting import wait_until


def test_a_write_is_seen_by_the_other_processes(tmp_path: Path) -> None:
    mine, theirs = Written(tmp_path), Written(tmp_path)
    mine.note(["alice"], 100.0)
    assert theirs.since("alice", 100.0)
    assert not theirs.since("alice", 100.5)
    assert not theirs.since("bob", 1.0)


def test_a_write_about_nobody_known_is_about_everybody(tmp_path: Path) -> None:
    mine, theirs = Written(tmp_path), Written(tmp_path)
    mine.note([], 100.0)
    assert theirs.since("alice", 99.0)
    assert not theirs.since("alice", 101.0)


def test_what_was_noted_before_there_was_a_file_comes_along(tmp_path: Path) -> None:
    mine = Written(None)
    mine.note(["alice"], 100.0)
    mine.share(tmp_path)
    assert Written(tmp_path).since("alice", 100.0)


def test_where_it_cannot_be_shared_it_holds_for_this_process(tmp_path: Path) -> None:
    mine = Written(tmp_path / "missing")
    mine.note(["alice"], 100.0)
    assert not mine.shared
    assert mine.since("alice", 100.0)


@given(
    st.lists(st.tuples(st.text(max_size=5), st.floats(min_value=1, max_value=1e9))),
    st.text(max_size=5),
    st.floats(1, 1e9),
)
def test_no_write_is_ever_missed(writes: list[tuple[str, float]], reader: str, moment: float) -> None:
    noted = Written(None)
    for subject, when in writes:
        noted.note([subject], when)
    if any(subject == reader and when >= moment for subject, when in writes):
        assert noted.since(reader, moment)


NOTING = """
import os, sys, time
from pathlib import Path
from spectron_migrate.state.written import Written
written = Written(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    last = time.time()
    written.note(["alice"], last)
    assert written.since("alice", last)
    print(repr(last), flush=True)
"""


def noting(folder: Path, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NOTING, str(folder), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_no_process_takes_back_what_another_noted_and_nobody_waits_for_one_that_is_stopped(tmp_path: Path) -> None:
    reader = Written(tmp_path)
    processes = stopped, killed, running = [noting(tmp_path, times) for times in (10_000, 10_000, 500)]
    try:
        for process, how in ((stopped, signal.SIGSTOP), (killed, signal.SIGKILL)):
            assert process.stdout is not None
            assert reader.since("alice", float(process.stdout.readline()))
            process.send_signal(how)
        told = running.communicate(timeout=60)[0].splitlines()
    finally:
        for process in processes:
            process.kill()
    assert (0, 500) == (running.returncode, len(told))
    told += [line for process in (stopped, killed) for line in process.communicate()[0].splitlines()]
    last = max(float(line) for line in told)
    assert reader.since("alice", last)
    assert Written(tmp_path).since("alice", last)


def test_processes_that_begin_at_the_same_moment_are_all_seen(tmp_path: Path) -> None:
    reader = Written(tmp_path)
    until, done = os.pipe()
    names = [f"user{number}" for number in range(12)]
    children = []
    for name in names:
        children.append(os.fork())
        if not children[-1]:
            with suppress(BaseException):
                os.close(done)
                Written(tmp_path).note([name], 100.0)
                os.read(until, 1)  # until the test is over
            os._exit(0)
    try:
        wait_until(lambda: all(reader.since(name, 100.0) for name in names))
    finally:
        os.close(done)
        os.close(until)
        assert [0] * 12 == [os.waitpid(child, 0)[1] for child in children]


def test_a_new_process_goes_on_with_the_file_of_a_dead_one(tmp_path: Path) -> None:
    first, second = Written(tmp_path), Written(tmp_path)
    first.note(["alice"], 100.0)
    del first
    third = Written(tmp_path)
    third.note(["alice"], 99.0)
    third.note(["bob"], 200.0)
    assert second.since("alice", 100.0)
    assert second.since("bob", 200.0)
    assert ["written.0.map", "written.1.map"] == sorted(path.name for path in tmp_path.glob("written.[0-9]*"))


def test_a_child_process_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    parent, reader = Written(tmp_path), Written(tmp_path)
    parent.note(["alice"], 100.0)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            parent.forget_after_fork()
            parent.share(tmp_path)
            parent.note(["bob"], 200.0)
            os._exit(0 if parent.shared and parent.since("alice", 100.0) else 1)
        os._exit(1)
    assert (child, 0) == os.waitpid(child, 0)
    assert parent.since("bob", 200.0)
    assert reader.since("bob", 200.0)
    assert 3 == len(list(tmp_path.glob("written.[0-9]*")))


def test_a_child_process_that_can_write_no_file_does_not_write_to_its_parents(tmp_path: Path) -> None:
    parent, reader = Written(tmp_path), Written(tmp_path)
    parent.note(["alice"], 100.0)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            parent.share(tmp_path / "missing")
            parent.note(["bob"], 200.0)
            os._exit(0 if parent.since("bob", 200.0) and parent.since("alice", 100.0) else 1)
        os._exit(1)
    assert (child, 0) == os.waitpid(child, 0)
    assert not reader.since("bob", 1.0)
