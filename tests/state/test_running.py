"""Calls that a process was making when it died."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from spectron_migrate.state.running import FIRST, SLOT, About, Running, left_by_the_dead


def left(state: Path) -> list[list[About]]:
    return [calls for _, calls in left_by_the_dead(state)]


def test_a_process_that_is_killed_leaves_the_calls_that_had_not_ended(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom spectron_migrate.state.running import Running\n"
        "running = Running(Path(sys.argv[1]))\n"
        "first = running.begin(['alice'], None)\nrunning.begin(['bob', 'bot'], None)\nrunning.end(first)\n"
        "running.begin([], 'm1')\nprint('at it', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert "at it\n" == process.stdout.readline()
    assert [] == left(tmp_path)
    process.kill()
    process.wait()
    assert [[About((), "m1"), About(("bob", "bot"))]] == left(tmp_path)
    process.stdin.close()
    process.stdout.close()


def test_a_process_that_is_killed_with_many_calls_leaves_them_all(tmp_path: Path) -> None:
    """Its file grew several times, while other calls began and ended."""
    code = (
        "import os, signal, sys, threading\nfrom pathlib import Path\n"
        "from spectron_migrate.state.running import Running\nrunning = Running(Path(sys.argv[1]))\n"
        "def work(name):\n"
        "    for number in range(100):\n"
        "        running.end(running.begin(['somebody'], None))\n"
        "        running.begin([f'{name} {number}'], None)\n"
        "threads = [threading.Thread(target=work, args=(name,)) for name in 'abc']\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert -9 == subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode
    expected = sorted(f"{name} {number}" for name in "abc" for number in range(100))
    assert [expected] == [sorted(call.owners[0] for call in calls) for calls in left(tmp_path)]
    assert len(expected) > 4 * FIRST


def test_a_process_without_calls_leaves_none(tmp_path: Path) -> None:
    Running(tmp_path).close()
    assert [[]] == left(tmp_path)


def test_a_child_process_does_not_end_a_call_of_its_parent(tmp_path: Path) -> None:
    parent = Running(tmp_path)
    slot = parent.begin(["alice"], None)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            parent.close()
            with pytest.raises(OSError, match="descriptor"):
                parent.end(slot)
            os._exit(0)
        os._exit(1)
    assert (child, 0) == os.waitpid(child, 0)
    assert [] == left(tmp_path)
    parent.close()
    assert [[About(("alice",))]] == left(tmp_path)


def test_a_slot_is_used_again_and_holds_nothing_of_the_call_before(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.end(running.begin(["a rather long name of somebody"], None))
    assert 0 == running.begin(["al"], None)
    running.close()
    assert [[About(("al",))]] == left(tmp_path)


def test_owners_that_do_not_fit_could_be_anybody(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.begin(["x" * SLOT], None)
    running.begin(["alice"], None)
    running.close()
    assert [[About(()), About(("alice",))]] == left(tmp_path)


def test_what_cannot_be_read_could_be_about_anybody() -> None:
    assert [About(())] * 3 == [About.from_json(text) for text in ('[["ali', "7", "")]
