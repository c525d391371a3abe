"""Who wrote when, over all processes of a host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.state.written import Written


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


def test_no_process_takes_back_what_another_noted(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom spectron_migrate.state.written import Written\n"
        "written = Written(Path(sys.argv[1]))\n"
        "for _ in range(2000):\n    last = time.time()\n    written.note(['alice'], last)\n"
        "    assert written.since('alice', last)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [0, 0, 0] == [process.wait(60) for process in processes]
