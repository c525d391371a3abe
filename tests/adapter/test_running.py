"""Calls that a process was making when it died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spectron_migrate.state.running import SLOT, About, Running, left_by_the_dead


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
