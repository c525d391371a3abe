"""The log of calls, and what its lines add up to for whoever reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.state import call_log
from spectron_migrate.state.call_log import (
    ANYBODY,
    FILE,
    CallLog,
    CallResult,
    CallSubject,
    CallView,
    begin_line,
    encode_results,
    end_line,
    mark_line,
    missed_at,
    note_missed,
    unknown_line,
)

ALICE = CallSubject(("alice",))


def view_of(*lines: str) -> CallView:
    view = CallView()
    for number, line in enumerate(lines):
        view.fold(line.encode(), number)
    return view


def test_a_running_call_holds_its_owner() -> None:
    view = view_of(begin_line("41:a/1", 3, 100.0, ALICE))
    assert view.must_wait("alice", 1e9)
    assert not view.must_wait("bob", 1.0)


def test_a_call_that_ended_holds_its_owner_until_spectron_has_caught_up() -> None:
    view = view_of(begin_line("41:a/1", 3, 99.0, ALICE), end_line("41:a/1", 100.0))
    assert view.must_wait("alice", 100.0)
    assert not view.must_wait("alice", 100.5)


def test_a_call_about_nobody_known_holds_everybody() -> None:
    view = view_of(begin_line("41:a/1", 3, 99.0, ANYBODY))
    assert view.must_wait("bob", 1e9)
    view.fold(end_line("41:a/1", 100.0).encode(), 1)
    assert view.must_wait("bob", 99.0)
    assert not view.must_wait("bob", 101.0)


def test_an_end_without_its_beginning_holds_everybody() -> None:
    view = view_of(end_line("41:a/1", 100.0))
    assert view.must_wait("bob", 100.0)


def test_a_call_of_unknown_results_holds_its_owner_until_they_are_there() -> None:
    view = view_of(begin_line("41:a/1", 3, 99.0, ALICE), unknown_line("41:a/1", 160.0, ALICE))
    assert {} == view.running
    assert view.must_wait("alice", 160.0)
    assert not view.must_wait("alice", 161.0)


def test_a_line_behind_a_mark_was_not_drained_with_it_whatever_the_clock_says() -> None:
    view = view_of(mark_line(100.0), begin_line("41:a/1", 3, 40.0, ALICE), end_line("41:a/1", 41.0))
    assert view.must_wait("alice", 100.0)
    assert not view.must_wait("alice", 101.0)


@pytest.mark.parametrize("line", ["end 41:a/1 17", 'begin 41:a/1 3 17.5 [["al', "mark 17", "\0\0\0", "xyz", "[17"])
def test_a_torn_line_holds_everybody(line: str) -> None:
    view = view_of(line)
    assert 1 == view.torn
    assert view.must_wait("bob", 1e9)


def test_a_line_of_the_version_before_holds_everybody_until_it_is_drained() -> None:
    view = view_of('[100.5, [["ADD", "m1", "said", {"user_id": "alice"}]]]')
    assert view.must_wait("bob", 100.5)
    assert not view.must_wait("bob", 101.0)


TIMES = st.integers(1, 10**15).map(lambda number: number / 1_000_000)


@given(st.lists(st.tuples(st.text(max_size=5), TIMES)), st.text(max_size=5), TIMES)
def test_no_write_is_ever_missed(writes: list[tuple[str, float]], reader: str, as_of: float) -> None:
    view = CallView()
    for number, (owner, at) in enumerate(writes):
        view.fold(begin_line(f"p/{number}", 1, at, CallSubject((owner,))).encode(), 0)
        view.fold(end_line(f"p/{number}", at).encode(), 0)
    assert any(owner == reader and at >= as_of for owner, at in writes) == view.must_wait(reader, as_of)


def test_owners_of_whom_spectron_has_everything_are_forgotten_and_no_other() -> None:
    lines = [
        line
        for number, owner in enumerate(("alice", "bob"))
        for line in (begin_line(f"p/{number}", 1, 1.0, CallSubject((owner,))), end_line(f"p/{number}", 100.0 + number))
    ]
    view = view_of(*lines)
    view.forget_before(100.5)
    assert 1 == view.owners
    assert view.must_wait("bob", 100.5)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_what_is_no_json_cannot_be_a_result(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_results([CallResult("ADD", "m", "said", {"metadata": value})])


def test_what_cannot_be_read_is_no_subject() -> None:
    for text in ('[["ali', "7", ""):
        with pytest.raises(ValueError):
            CallSubject.from_json(text)


# -- the file ----------------------------------------------------------------------------------------------


def test_a_full_disk_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CallLog(tmp_path)
    monkeypatch.setattr(os, "write", lambda handle, data: len(data) - 3)
    with pytest.raises(OSError, match="No space") as raised:
        log.append("mark 1.0 .")
    assert errno.ENOSPC == raised.value.errno


def test_lines_are_read_whole_however_long(tmp_path: Path) -> None:
    log = CallLog(tmp_path)
    start = log.size
    log.append("x" * 1_000_000)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"\nhalf of a line")
    read = []
    while lines := log.lines_from(start):
        read += [line for line, _ in lines]
        start = lines[-1][1]
    assert [b"", b"x" * 1_000_000, b""] == read


def test_the_first_line_is_found_behind_what_was_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_log, "LARGE", 1)
    log = CallLog(tmp_path)
    assert 0 == log.first_line()
    for number in range(5000):
        log.append(end_line(f"41:a/{number}", 100.0))
    kept = log.size
    log.append("mark 7.0 .")
    log.release(kept)
    assert [b"", b"mark 7.0 ."] == [line for line, _ in log.lines_from(CallLog(tmp_path).first_line())][-2:]
    assert log.name == CallLog(tmp_path).name


def test_the_time_of_what_was_missed_never_goes_back(tmp_path: Path) -> None:
    assert call_log.NEVER == missed_at(tmp_path)
    note_missed(tmp_path, 200.5)
    note_missed(tmp_path, 100.0)
    assert 200.5 == missed_at(tmp_path)
