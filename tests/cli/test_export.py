"""`export`: its summary, its `--json` object, and how a signal ends it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.mem0.conftest import sample_config
from tests.mem0.standins import KEY, Platform, Server, serving
from tests.support.command import command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "spectron_migrate", "export"]


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return command(tmp_path, "export", *words, environment=clean_environment(os.environ))


def files_of(dump: Path) -> dict[str, bytes]:
    """The files of a dump and their content, but for the lock, which holds the last writer's process id."""
    return {path.name: path.read_bytes() for path in dump.iterdir() if path.name != ".lock"}


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"m{number}", "memory": f"note {number}", "user_id": "ada", **more} for number in range(count)]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_the_summary_counts_changes_and_lists_skipped_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", [*rows(3), {"id": "\x1b[31mred"}, {"memory": "without an id"}])
    run(tmp_path, "--from", str(file))
    write(file, [*rows(2, metadata={"edited": True}), {**rows(3)[2], "memory": "another"}, *rows(4)[3:]])

    done = run(tmp_path, "--from", str(file))

    words = " ".join(done.stdout.split())
    assert 0 == done.returncode
    assert "Export: done; not provable that nothing is missing" in words
    assert "memories in the dump 4" in words
    assert "new 1 changed 3 (text 1, only metadata or state 2) deleted 0" in words
    assert "next: spectron-migrate replay --dry-run" in words
    write(file, [*rows(1), *({"id": f"\x1b[31m{number}"} for number in range(12))])
    words = " ".join(run(tmp_path, "--from", str(file), "--dump", "other dump").stdout.split())
    assert "Skipped rows: 12, all in other dump/skipped.jsonl" in words
    assert "\x1b" not in words
    assert "next: spectron-migrate replay --dump 'other dump' --dry-run" in words


def test_json_is_one_object_with_the_promised_fields(tmp_path: Path) -> None:
    config = write(tmp_path / "mem0.json", sample_config("2.2.1"))

    done = run(tmp_path, "--mem0-config", str(config), "--json")

    answer = json.loads(done.stdout)
    envelope = {"schema", "command", "version", "migration", "exit_code", "warnings", "next", "seconds"}
    fields = {"source", "complete", "memories", "native_count", "users", "agents", "runs", "skipped"}
    assert envelope | fields | {"new", "changed", "deleted", "dump"} <= set(answer)
    expected = {"schema": 1, "command": "export", "exit_code": 0, "complete": True, "memories": 76, "native_count": 76}
    assert expected == {name: answer[name] for name in expected}


@pytest.mark.parametrize("kind", ["platform", "server"])
def test_the_key_of_a_served_mem0_comes_from_the_environment_and_is_never_shown(tmp_path: Path, kind: str) -> None:
    held = rows(5, created_at="2025-01-01T00:00:00Z", updated_at="2025-01-01T00:00:00Z")
    stand_in = Platform(held) if kind == "platform" else Server(held, admin=False)
    with serving(stand_in) as url:
        environment = {**clean_environment(os.environ), "MEM0_API_KEY": KEY, "MEM0_BASE_URL": url}
        done = command(tmp_path, "export", "--source", kind, "--json", "-v", environment=environment)

    answer = json.loads(done.stdout)
    assert 0 == done.returncode
    assert answer["complete"] is True
    assert 5 == answer["memories"]
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in done.stdout + done.stderr + written


@pytest.mark.parametrize(
    ("since", "memories"),
    [("2025-01-01", 3), ("2025-01-02T00:30:00+02:00", 2), ("2025-01-02", 1), ("2025-01-02T00:00:00.5Z", 0)],
)
def test_since_takes_a_time_in_any_spelling(tmp_path: Path, since: str, memories: int) -> None:
    times = ("2025-01-01T00:00:00Z", "2025-01-01T23:00:00Z", "2025-01-02T00:00:00Z")
    file = write(tmp_path / "all.json", [{**rows(3)[at], "created_at": time} for at, time in enumerate(times)])

    done = run(tmp_path, "--from", str(file), "--since", since, "--json")

    assert memories == json.loads(done.stdout)["memories"]


def test_since_without_a_time_is_refused_instead_of_reading_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", rows(3))

    done = run(tmp_path, "--from", str(file), "--since", "yesterday")

    assert 2 == done.returncode
    assert "error: --since is 'yesterday', which is not a time" == done.stderr.splitlines()[0]
    assert not (tmp_path / "dump").exists()


def test_json_is_one_object_when_it_fails_too(tmp_path: Path) -> None:
    done = run(tmp_path, "--from", "missing.json", "--json")

    answer = json.loads(done.stdout)
    assert 2 == done.returncode
    assert 2 == answer["exit_code"]
    assert "input" == answer["error"]["kind"]
    assert "there is no file missing.json" == answer["error"]["message"]
    assert not (tmp_path / "dump").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_even_while_a_server_asks_it_to_wait(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    platform = Platform(rows(600, created_at="2025-01-01T00:00:00Z", updated_at="2025-01-01T00:00:00Z"))
    with serving(platform) as url:
        environment = {**clean_environment(os.environ), "MEM0_API_KEY": KEY, "MEM0_BASE_URL": url}
        first = command(tmp_path, "export", "--source", "platform", environment=environment)
        assert 0 == first.returncode
        before = files_of(tmp_path / "dump")
        platform.keeps_waiting = "page=2&"
        asked = len(platform.asked)
        process = subprocess.Popen(
            [*COMMAND, "--source", "platform", "--json"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: any("page=2&" in path for _, path, _ in platform.asked[asked:]))
        process.send_signal(sent)
        out, _ = process.communicate(timeout=20)

    answer = json.loads(out)
    assert code == process.returncode
    assert code == answer["exit_code"]
    assert "interrupted" == answer["error"]["kind"]
    after = files_of(tmp_path / "dump")
    assert after.pop(".scan")  # what was fetched, for the next try
    assert before == after


def test_progress_has_a_total_and_an_estimate_of_the_time_left(tmp_path: Path) -> None:
    file = write(tmp_path / "all.json", rows(60_000))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen(
        [*COMMAND, "--from", str(file), "--dump", "second"],
        cwd=tmp_path,
        env=clean_environment(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end was closed
        pass
    assert 0 == process.wait(30)
    os.close(ours)
    assert b"reading the files, in bytes |" in shown
    assert f"/{file.stat().st_size:,} ".encode() in shown
    assert b"% " in shown
    assert b" ETA " in shown
