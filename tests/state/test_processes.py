"""What processes say about themselves, live and dead."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.state.processes import FOLDER, PAST, GuardStatus, OwnFile, ProcessStatus, fold, read_processes

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STAMP = "2026-11-22T12:00:00.000000Z"


def report(pid: int = 1, **more: object) -> ProcessStatus:
    return ProcessStatus(host="web-1", pid=pid, began=STAMP, heartbeat=STAMP, **more)  # type: ignore[arg-type]


def test_without_any_adapter_nothing_is_measured(tmp_path: Path) -> None:
    assert not read_processes(tmp_path, now=NOW).measured


def test_a_live_process_is_read_back_as_it_told(tmp_path: Path) -> None:
    own = OwnFile(tmp_path)
    told = report(
        own.pid,
        epoch=3,
        running_epoch=2,
        calls={"get_all(user_id)": {"2026-11-22": 4}},
        guard=GuardStatus(True, STAMP, "p95", 2),
    )
    own.write(told)
    seen = read_processes(tmp_path, now=NOW)
    assert told == ProcessStatus.from_json(seen.reports[0].to_json(), alive=False)
    assert seen.reports[0].alive
    assert {"get_all(user_id)": 4} == seen.calls
    assert 1 == len(seen.not_on(3))
    assert 0 == len(seen.not_on(2))
    own.close()
    assert () == read_processes(tmp_path, now=NOW).reports


def test_only_the_last_days_count(tmp_path: Path) -> None:
    own = OwnFile(tmp_path)
    own.write(report(calls={"delete": {"2026-11-14": 9, "2026-11-15": 2, "2026-11-22": 1}}))
    assert {"delete": 3} == read_processes(tmp_path, now=NOW).calls


def test_what_dead_processes_counted_stays_and_their_files_go(tmp_path: Path) -> None:
    for count in (2, 3):
        own = OwnFile(tmp_path)
        own.write(report(calls={"delete": {"2026-11-22": count}}, reads={"mem0": count}, shadow={"overlap": 0.5}))
        own.close()
    fold(tmp_path, now=NOW)
    assert {PAST, "fold.lock"} == {path.name for path in (tmp_path / FOLDER).iterdir()}
    seen = read_processes(tmp_path, now=NOW)
    assert {"delete": 5} == seen.calls
    assert {"mem0": 5} == seen.reads
    assert {"overlap": 1.0} == seen.shadow
    assert seen.measured


def test_a_process_that_was_killed_is_dead_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom spectron_migrate.state.processes import OwnFile, ProcessStatus\n"
        "own = OwnFile(Path(sys.argv[1]))\nown.write(ProcessStatus('web-1', own.pid, 'a', 'b'))\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    assert b"ready\n" == child.stdout.readline()
    assert [child.pid] == [each.pid for each in read_processes(tmp_path).reports]
    child.kill()
    child.wait()
    assert () == read_processes(tmp_path).reports
    child.stdin.close()
    child.stdout.close()


def test_two_processes_with_one_number_keep_apart(tmp_path: Path) -> None:
    """As containers that share a directory have it."""
    first, second = OwnFile(tmp_path), OwnFile(tmp_path)
    first.write(report(reads={"mem0": 1}))
    second.write(report(reads={"mem0": 2}))
    assert {"mem0": 3} == read_processes(tmp_path).reads
    first.close()
    second.close()


def test_a_broken_file_of_a_live_process_is_told(tmp_path: Path) -> None:
    own = OwnFile(tmp_path)
    (tmp_path / FOLDER / f"{own.pid}.json").write_text("{")
    assert (f"{own.pid}.json",) == read_processes(tmp_path).broken
    own.close()


def test_what_they_say_is_told_together(tmp_path: Path) -> None:
    own = OwnFile(tmp_path)
    sums = {"asked": 4, "failed": 1, "answered": 3, "ms": 30.0, "compared": 2, "overlap": 1.5}
    own.write(
        report(own.pid, guard=GuardStatus(True, STAMP, "p95 is 900 ms", 1), shadow=sums, routing_problem="not there")
    )
    told = read_processes(tmp_path, now=NOW).to_json()
    own.close()
    assert told is not None
    assert 1 == told["processes"]
    assert ["not there"] == told["problems"]
    assert [{"host": "web-1", "pid": own.pid, "since": STAMP, "reason": "p95 is 900 ms"}] == told["guarded"]
    assert {"asked": 4, "failed": 1, "mean_ms": 10.0, "mean_overlap": 0.75} == told["shadow"]
