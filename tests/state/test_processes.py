"""What processes say about themselves, live and dead."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from spectron_migrate.state.heartbeat_files import APPLICATIONS
from spectron_migrate.state.process_status import SILENT_S, GuardStatus, ProcessStatus
from spectron_migrate.state.processes import FOLDER, PAST, OwnFile, fold, read_processes

ROOT = Path(__file__).parent.parent.parent
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
    now = datetime.now(UTC)  # the second of them counts what the first left, by the clock: old days are forgotten
    today = f"{now:%Y-%m-%d}"
    for count in (2, 3):
        own = OwnFile(tmp_path)
        own.write(report(calls={"delete": {today: count}}, reads={"mem0": count}, shadow={"overlap": 0.5}))
        own.close()
    fold(tmp_path, now=now)
    assert {PAST.rpartition("/")[2], "fold.lock"} == {path.name for path in (tmp_path / FOLDER).iterdir()}
    seen = read_processes(tmp_path, now=now)
    assert {"delete": 5} == seen.calls
    assert {"mem0": 5} == seen.reads
    assert {"overlap": 1.0} == seen.shadow
    assert seen.measured


def test_a_process_that_was_killed_is_dead_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom spectron_migrate.state.processes import OwnFile\n"
        "from spectron_migrate.state.process_status import ProcessStatus\n"
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


def beat(folder: Path, name: str = "web-1-7.json", **more: object) -> None:
    """A heartbeat file of an application in another language."""
    path = folder / APPLICATIONS / name
    path.parent.mkdir(exist_ok=True)
    known = {"schema": 1, "host": "web-1", "pid": 7, "heartbeat": STAMP, "last_read": STAMP, "epoch": 3}
    path.write_text(json.dumps(known | more))


def test_a_heartbeat_file_of_another_language_counts_as_a_process(tmp_path: Path) -> None:
    beat(tmp_path, calls={"get_all": {"2026-11-22": 2}})
    seen = read_processes(tmp_path, now=NOW)
    assert [("web-1", 7)] == [(each.host, each.pid) for each in seen.reports]
    assert {"get_all": 2} == seen.calls
    assert {"web-1": STAMP} == seen.last_reads
    assert [7] == [each.pid for each in seen.not_on(4)]
    assert {} == seen.lost


def test_calls_are_measured_only_where_somebody_counts_them(tmp_path: Path) -> None:
    beat(tmp_path)
    assert not read_processes(tmp_path, now=NOW).calls_measured
    beat(tmp_path, calls={})
    assert read_processes(tmp_path, now=NOW).calls_measured


def test_a_heartbeat_file_that_is_not_renewed_is_of_a_lost_process(tmp_path: Path) -> None:
    beat(tmp_path)
    later = read_processes(tmp_path, now=NOW + timedelta(seconds=SILENT_S))
    assert () == later.reports
    assert {"web-1/7": STAMP} == later.lost
    beat(tmp_path, ended=STAMP)
    assert {} == read_processes(tmp_path, now=NOW + timedelta(hours=1)).lost


@pytest.mark.parametrize(
    "more",
    [{"schema": 2}, {"heartbeat": "yesterday"}, {"heartbeat": "2026-11-22T12:00:00"}, {"calls": [1]}, {"epoch": ""}],
)
def test_a_heartbeat_file_that_cannot_be_read_is_named(tmp_path: Path, more: dict[str, object]) -> None:
    beat(tmp_path, **more)
    seen = read_processes(tmp_path, now=NOW)
    assert ("applications/web-1-7.json",) == seen.broken
    assert {} == seen.last_reads


def test_the_schema_of_heartbeat_files_admits_what_is_read(tmp_path: Path) -> None:
    schema = json.loads((ROOT / "configs/heartbeat.schema.json").read_text())
    beat(tmp_path, ended=None, calls={"get_all": {"2026-11-22": 2}})
    check = Draft202012Validator(schema)
    check.validate(json.loads((tmp_path / APPLICATIONS / "web-1-7.json").read_text()))
    assert not check.is_valid({"schema": 1, "host": "web-1", "heartbeat": STAMP, "epoch": 3})


def test_a_process_that_died_without_a_goodbye_stays_known_when_its_file_is_folded(tmp_path: Path) -> None:
    OwnFile(tmp_path).write(report(pid=8, last_reads={"web-1": STAMP}))
    gone = OwnFile(tmp_path)
    gone.write(report(pid=9, ended=STAMP))
    gone.close()
    gc.collect()
    before = read_processes(tmp_path, now=NOW)
    fold(tmp_path, now=NOW)
    after = read_processes(tmp_path, now=NOW)
    assert {"web-1/8": STAMP} == before.lost == after.lost
    assert {"web-1": STAMP} == before.last_reads == after.last_reads


def test_a_process_that_holds_its_file_and_no_longer_reports_is_lost_until_it_does(tmp_path: Path) -> None:
    own = OwnFile(tmp_path)
    own.write(report(pid=8))
    assert {} == read_processes(tmp_path, now=NOW + timedelta(seconds=59)).lost
    assert {"web-1/8": STAMP} == read_processes(tmp_path, now=NOW + timedelta(seconds=60)).lost
    own.close()


def test_the_next_process_with_the_same_host_and_number_clears_the_one_before(tmp_path: Path) -> None:
    """The only process of a container that is restarted has number 1 every time."""
    own = OwnFile(tmp_path)
    own.write(report(pid=1))
    own.close()
    again = OwnFile(tmp_path)
    again.write(report(pid=1))
    assert {} == read_processes(tmp_path, now=NOW).lost
    again.close()


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
