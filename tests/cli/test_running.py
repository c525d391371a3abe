"""Commands as processes: signals, the local server, JSON on stdout alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment, local_spectron
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, turns_of, write_raw

pytestmark = pytest.mark.slow


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "spectron_migrate", *words]


def led_to(server: RunningServer, endpoint: str) -> dict[str, str]:
    return {
        **clean_environment(os.environ),
        "SPECTRON_ENDPOINT": endpoint,
        "SPECTRON_CONTEXT": server.context,
        "SPECTRON_API_KEY": server.api_key,
    }


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_is_in_flight_and_says_how_to_go_on(
    spectron: RunningServer, user: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(50)])
    running: list[subprocess.Popen[str]] = []

    def signal_at(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and seen.number == 15:
            running[0].send_signal(sent)
        return "none"

    with misbehaving(spectron.base_url, signal_at) as proxy:
        process = subprocess.Popen(
            command("replay", "--dump", str(dump), "--json"),
            cwd=tmp_path,
            env=led_to(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        out, _ = process.communicate(timeout=60)
    told = json.loads(out)
    assert (code, code, 0, f"spectron-migrate replay --dump {dump}") == (
        process.returncode,
        told["exit_code"],
        told["in_doubt"],
        told["next"],
    )
    assert 0 < told["written"] < 50
    assert told["written"] == len(turns_of(spectron, user))
    again = subprocess.run(
        command("replay", "--dump", str(dump), "--json"),
        cwd=tmp_path,
        env=led_to(spectron, spectron.base_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, 50 - told["written"]) == (again.returncode, json.loads(again.stdout)["written"])
    assert [f"{user} remembers thing number {number}" for number in range(50)] == [
        turn.content for turn in turns_of(spectron, user)
    ]


def test_a_second_process_on_the_same_ledger_is_refused_naming_the_first(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    second: list[subprocess.CompletedProcess[str]] = []
    environment = led_to(spectron, spectron.base_url)

    def start_another(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and not second:
            words = command("replay", "--dump", str(dump), "--json")
            second.append(
                subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            )
        return "none"

    with misbehaving(spectron.base_url, start_another) as proxy:
        first = subprocess.Popen(
            command("replay", "--dump", str(dump), "--json"),
            cwd=tmp_path,
            env=led_to(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first.communicate(timeout=90)
    assert (0, 9) == (first.returncode, second[0].returncode)
    assert str(first.pid) in json.loads(second[0].stdout)["error"]["message"]
    assert 20 == len(turns_of(spectron, user))


def test_the_local_spectron_is_led_to_by_the_variables_it_prints(tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, "alice")])
    with local_spectron(tmp_path / "data", os.environ) as server:
        done = subprocess.run(
            command("replay", "--dump", str(dump), "--user", "alice", "--json"),
            cwd=tmp_path,
            env={**clean_environment(os.environ), **server.environment},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (0, 1) == (done.returncode, json.loads(done.stdout)["written"])


def test_data_that_another_process_or_context_has_is_refused_in_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with local_spectron(data, os.environ) as server:
        words = command("local", "--port", "0", "--data", str(data), "--context", server.context)
        taken = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    (data / "broken.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 50)
    words = command("local", "--port", "0", "--data", str(data), "--context", "broken")
    broken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    for ended in (taken, broken):
        assert (2, "") == (ended.returncode, ended.stdout), ended.stderr
        assert ended.stderr.startswith("error: the local Spectron cannot serve")
        assert "Traceback" not in ended.stderr


def test_whoever_stops_reading_our_output_causes_no_traceback(tmp_path: Path) -> None:
    piped = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m spectron_migrate --help | head -c 1 > /dev/null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in piped.stderr
