"""Writing a scan: after a crash, a full disk or an interrupt the dump is the old one or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.records import Skipped
from tests.support.dumping import SOURCE, START, memory, scan, texts

pytestmark = pytest.mark.slow


def test_a_second_pass_forgets_what_is_no_longer_there(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", SOURCE, START, rereads=True) as writer:
        for row in (memory("m1"), memory("m2"), Skipped("m3", "no text field"), Skipped("", "no id")):
            writer.add(row)
        assert 4 == writer.distinct_rows()
        writer.begin_pass()
        writer.add(memory("m1", "changed"))
        assert 1 == writer.distinct_rows()
        manifest = writer.commit(complete=True, native_count=1, ended=START).manifest

    assert {"m1": "changed"} == texts(open_dump(tmp_path / "dump"))
    assert {} == manifest.skipped
    assert {"alice": 1} == manifest.users


def test_leaving_without_a_commit_leaves_the_old_dump(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def interrupted() -> None:
        with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
            writer.add(memory("m2"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert before == {file.name: file.read_bytes() for file in path.iterdir()}


KILLED_AT = """
import sys
from pathlib import Path
from datetime import timedelta
from tests.support.dumping import SOURCE, START, kill_at_step, memory
from spectron_migrate.dump.writer import DumpWriter

at, path = int(sys.argv[1]), Path(sys.argv[2])
kill_at_step(path, at)
with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
    for name in ("m1", "m3"):
        writer.add(memory(name, "new"))
    writer.append_line("history.jsonl", {"memory_id": "m1"})
    writer.commit(complete=True, native_count=2, ended=START + timedelta(days=1))
print("whole")
"""


def test_killed_at_any_step_the_dump_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    for at in range(1, 60):
        path = tmp_path / str(at)
        scan(path, [memory("m1", "old"), memory("m2", "old")])
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(at), str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        found = texts(open_dump(path))
        assert found in ({"m1": "old", "m2": "old"}, {"m1": "new", "m3": "new"})
        seen.add(found["m1"])
        scan(path, [memory("m1", "newest")], day=2)
        assert {"m1": "newest"} == texts(open_dump(path))
        assert [] == [name for name in os.listdir(path) if name.startswith(".") and name not in (".gitignore", ".lock")]
        if done.returncode == 0:
            break
    assert {"old", "new"} == seen
    assert "whole\n" == done.stdout


FULL_AT = """
import resource, sqlite3, sys
from datetime import timedelta
from pathlib import Path
from tests.support.dumping import SOURCE, START, memory
from spectron_migrate.dump.writer import DumpWriter

path = Path(sys.argv[1])
for limit in (0, 50, 300, 600, 900, 2_000, 5_000, 10_000, 20_000, 40_000, 80_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with DumpWriter(path, SOURCE, START + timedelta(days=1)) as writer:
            for number in range(60):
                writer.add(memory(f"m{number}", "new " + "x" * 500))
            writer.commit(complete=True, native_count=60, ended=START + timedelta(days=1))
        print(limit, "whole")
    except (OSError, sqlite3.OperationalError) as error:
        print(limit, type(error).__name__)
    sys.stdout.flush()
    if "old" not in (path / "memories.jsonl").read_text():
        break
"""


def test_a_disk_that_is_full_at_any_point_leaves_the_old_dump_or_the_new_one(tmp_path: Path) -> None:
    """As a limit on the size of a file, which strikes in another file at each of its sizes."""
    path = tmp_path / "dump"
    scan(path, [memory("m1", "old"), memory("m2", "old")])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    process = subprocess.Popen([sys.executable, "-c", FULL_AT, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    ends = [line.split()[1] for line in process.stdout]

    assert 0 == process.wait()
    assert "whole" == ends.pop()
    assert {"OSError", "OperationalError"} == set(ends)
    assert 60 == open_dump(path).count
    assert set(before) == {file.name for file in path.iterdir()} - {"deleted.jsonl"}


INTERRUPTED_AT = """
import os, random, signal, sys, time
from pathlib import Path
from spectron_migrate.dump import open_dump
from tests.support.dumping import memory, scan, texts

class Stop(BaseException):
    pass

def stop(number, frame):
    raise Stop

def rows(day):
    return [memory(f"m{one}", str(day)) for one in range((40, 55)[day % 2])]

path, chosen = Path(sys.argv[1]), random.Random(5)
scan(path, rows(0))
began = time.perf_counter()
scan(path, rows(1), day=1)
longest, held = 1.2 * (time.perf_counter() - began), 1
signal.signal(signal.SIGALRM, stop)
for day in range(2, 80):
    child = os.fork()
    if not child:
        if day % 10:  # how fast the machine is decides what the others come to
            signal.setitimer(signal.ITIMER_REAL, chosen.uniform(0.0001, longest))
        try:
            scan(path, rows(day), day=day)
        finally:
            os._exit(0)
    chosen.random()
    os.waitpid(child, 0)
    found = texts(open_dump(path))
    now = int(found["m0"])
    assert now in (held, day) and found == {row.id: row.memory for row in rows(now)}, (day, held, found)
    print("new" if now == day else "old")
    held = now
"""


def test_interrupted_at_any_moment_the_dump_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """A signal's exception may come between any two instructions."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, str(tmp_path / "dump")], capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr
    assert 78 == len(done.stdout.split())
    assert "new" in done.stdout.split()
