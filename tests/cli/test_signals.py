"""SIGINT and SIGTERM end every command in order: what was sent is recorded, and `--json` prints its one object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.cli.support import command_line, environment_for
from tests.support.command import command
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, turns_of, write_raw

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.fixture
def replayed(spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a dump that has been replayed."""
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    for words in (("export", "--from", "all.json"), ("replay",)):
        assert 0 == command(tmp_path, *words, environment=environment_for(spectron)).returncode
    return tmp_path


def end_by_signal(
    sent: signal.Signals, spectron: RunningServer, words: list[str], target: Callable[[int], int] = lambda pid: pid
) -> tuple[int, str]:
    """Start a command and send a signal at its fourth request; the exit code and stdout.

    `target` gives the process to signal for the process that was started.
    """
    started: list[subprocess.Popen[str]] = []

    def signal_once(seen: Seen) -> Fault:
        if seen.number == 4:
            os.kill(target(started[0].pid), sent)
            return "hang"
        return "none"

    with misbehaving(spectron.base_url, signal_once) as proxy:
        process = subprocess.Popen(
            words,
            env=environment_for(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        out, _ = process.communicate(timeout=60)
    return process.returncode, out


@BOTH
def test_replay_finishes_what_is_in_flight_and_continues_when_it_is_run_again(
    spectron: RunningServer, user: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(50)])
    started: list[subprocess.Popen[str]] = []

    def signal_at(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and seen.number == 15:
            started[0].send_signal(sent)
        return "none"

    with misbehaving(spectron.base_url, signal_at) as proxy:
        process = subprocess.Popen(
            command_line("replay", "--dump", str(dump), "--json"),
            cwd=tmp_path,
            env=environment_for(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        out, _ = process.communicate(timeout=60)
    first = json.loads(out)
    assert code == process.returncode
    assert code == first["exit_code"]
    assert 0 == first["in_doubt"]
    assert f" replay --dump {dump}" in first["next"]
    assert 0 < first["written"] < 50
    assert first["written"] == len(turns_of(spectron, user))

    again = command(tmp_path, "replay", "--dump", str(dump), "--json", environment=environment_for(spectron))
    assert 0 == again.returncode
    assert 50 - first["written"] == json.loads(again.stdout)["written"]
    expected = [f"{user} remembers thing number {number}" for number in range(50)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


@pytest.mark.usefixtures("replayed")
@BOTH
@pytest.mark.parametrize("words", ["dual-verify", "doctor --probe"])
def test_a_command_without_a_handler_of_its_own_prints_its_object(
    spectron: RunningServer, words: str, sent: signal.Signals, code: int
) -> None:
    ended, out = end_by_signal(sent, spectron, command_line(*words.split(), "--json"))
    answer = json.loads(out)
    assert code == ended
    assert code == answer["exit_code"]
    assert "interrupted" == answer["error"]["kind"]


@pytest.mark.usefixtures("replayed")
def test_sigterm_ends_a_command_where_sigint_is_ignored(spectron: RunningServer) -> None:
    words = ["/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"', *command_line("dual-verify", "--json")]
    ended, out = end_by_signal(signal.SIGTERM, spectron, words)
    assert 143 == ended
    assert 143 == json.loads(out)["exit_code"]


@pytest.mark.usefixtures("replayed")
@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not make a process namespace",
)
def test_sigterm_ends_a_command_that_is_process_1(spectron: RunningServer) -> None:
    def process_1(unshare: int) -> int:
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())

    words = [*NAMESPACE, *command_line("dual-verify", "--json")]
    ended, out = end_by_signal(signal.SIGTERM, spectron, words, process_1)
    assert 143 == ended
    assert 143 == json.loads(out)["exit_code"]


@BOTH
def test_local_prints_what_it_served(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        command_line("local", "--port", "0", "--data", str(tmp_path / "data"), "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    endpoint = process.stderr.readline().split()[3].rstrip(",")
    process.send_signal(sent)
    answer = json.loads(process.communicate(timeout=60)[0])
    assert code == process.returncode
    assert code == answer["exit_code"]
    assert endpoint == answer["endpoint"]


def test_a_rehearsal_stops_its_server(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line("rehearse", "--json", "--keep", str(tmp_path / "kept")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.rglob("*.sqlite")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert 143 == json.loads(out)["exit_code"]
    assert [] == [each.name for each in Path("/proc").glob("[0-9]*") if str(tmp_path) in _command_line_of(each)]


def _command_line_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_signal_before_the_command_begins_prints_an_object_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNAL_DURING_IMPORT, "status", "--json"], capture_output=True, text=True, check=False
    )
    assert 143 == ended.returncode
    assert 143 == json.loads(ended.stdout)["exit_code"]
    assert "" == ended.stderr


_SIGNAL_DURING_IMPORT = """
import os, signal, sys
from spectron_migrate import cli
sys.meta_path.insert(0, type("Sent", (), {"find_spec": staticmethod(
    lambda name, *_: os.kill(os.getpid(), signal.SIGTERM) if name == "spectron_migrate.cli.app" else None)}))
cli.main()
"""


def test_the_log_has_a_replay_from_its_beginning_to_the_signal_that_ended_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    started: list[subprocess.Popen[str]] = []

    def signal_at_a_write(seen: Seen) -> Fault:
        if seen.writes_fact and b"number 3" in seen.body:
            started[0].send_signal(signal.SIGTERM)
        return "none"

    with misbehaving(spectron.base_url, signal_at_a_write) as proxy:
        process = subprocess.Popen(
            command_line("replay", "--dump", "all.json"),
            cwd=tmp_path,
            env=environment_for(spectron, proxy.base_url),
            stdout=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert 143 == process.wait(timeout=60)
    events = [json.loads(line) for line in (tmp_path / ".spectron-migrate" / "log.jsonl").read_text().splitlines()]
    assert ["begin", "end"] == [each["event"] for each in (events[0], events[-1])]
    assert "replay" == events[0]["command"]
    assert 143 == events[-1]["exit_code"]
    assert [] == list((tmp_path / ".spectron-migrate").glob("progress/*"))
