"""SIGTERM ends every command as Ctrl-C does: in order, with one object, also as process 1 of a container."""

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
from tests.cli.test_running import command, led_to
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, write_raw


@pytest.fixture
def moved(spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose dump has been replayed."""
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    for words in (("export", "--from", "all.json"), ("replay",)):
        subprocess.run(command(*words), env=led_to(spectron, spectron.base_url), capture_output=True, check=True)
    return tmp_path


def ended_by(
    sent: signal.Signals, spectron: RunningServer, words: list[str], target: Callable[[int], int] = lambda pid: pid
) -> tuple[int, str]:
    """Start it, signal it at its fourth request, and see how it ends: exit code and stdout."""
    running: list[subprocess.Popen[str]] = []

    def signal_once(seen: Seen) -> Fault:
        if seen.number == 4:
            os.kill(target(running[0].pid), sent)
            return "hang"
        return "none"

    with misbehaving(spectron.base_url, signal_once) as proxy:
        process = subprocess.Popen(
            words,
            env=led_to(spectron, proxy.base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        out, _ = process.communicate(timeout=60)
    return process.returncode, out


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("words", ["dual-verify", "doctor --probe"])
def test_a_command_without_a_handler_of_its_own_ends_with_one_object(
    spectron: RunningServer, words: str, sent: signal.Signals, code: int
) -> None:
    ended, out = ended_by(sent, spectron, command(*words.split(), "--json"))
    told = json.loads(out)
    assert (code, code, "interrupted") == (ended, told["exit_code"], told["error"]["kind"])


@pytest.mark.usefixtures("moved")
def test_sigterm_ends_it_where_sigint_is_ignored(spectron: RunningServer) -> None:
    words = ["/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"', *command("dual-verify", "--json")]
    ended, out = ended_by(signal.SIGTERM, spectron, words)
    assert (143, 143) == (ended, json.loads(out)["exit_code"])


NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.mark.usefixtures("moved")
@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not make a process namespace",
)
def test_sigterm_ends_it_as_process_1(spectron: RunningServer) -> None:
    def process_1(unshare: int) -> int:
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())

    ended, out = ended_by(signal.SIGTERM, spectron, [*NAMESPACE, *command("dual-verify", "--json")], process_1)
    assert (143, 143) == (ended, json.loads(out)["exit_code"])


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_local_spectron_ends_in_order_and_says_what_it_served(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        command("local", "--port", "0", "--data", str(tmp_path / "data"), "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    endpoint = process.stderr.readline().split()[3].rstrip(",")
    process.send_signal(sent)
    told = json.loads(process.communicate(timeout=60)[0])
    assert (code, code, endpoint) == (process.returncode, told["exit_code"], told["endpoint"])


def test_a_rehearsal_takes_its_server_along(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("rehearse", "--json", "--keep", str(tmp_path / "kept")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.rglob("*.sqlite")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert 143 == json.loads(out)["exit_code"]
    assert [] == [place.name for place in Path("/proc").glob("[0-9]*") if str(tmp_path) in _cmdline(place)]


def _cmdline(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_signal_before_the_command_began_is_told_too() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _EARLY, "status", "--json"], capture_output=True, text=True, check=False
    )
    assert (143, 143, "") == (told.returncode, json.loads(told.stdout)["exit_code"], told.stderr)


_EARLY = """
import os, signal, sys
from spectron_migrate import cli
sys.meta_path.insert(0, type("Sent", (), {"find_spec": staticmethod(
    lambda name, *_: os.kill(os.getpid(), signal.SIGTERM) if name == "spectron_migrate.cli.app" else None)}))
cli.main()
"""
