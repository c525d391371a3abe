"""`status --watch`: what the screen shows, at which widths, and what it costs to keep it up to date."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spectron_migrate.cli import watch
from spectron_migrate.cli.app import run
from spectron_migrate.cli.migration_state import State
from spectron_migrate.cli.progress import Progress
from spectron_migrate.cli.terminal import TerminalReporter
from spectron_migrate.cli.watch import Paced, Snapshot
from spectron_migrate.cutover.gate_result import GateResult
from spectron_migrate.ledger.read.status import LaneLeft, MigrationStatus
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.reporter import Gauges
from spectron_migrate.state.running import ProgressFile, RunningCommand, read_running
from tests.cli.support import command_line, environment_for
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.spectron import memory, write_raw
from tests.support.waiting import wait_until

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
AT = "2026-05-04T12:00:00.000000Z"


def snapshot(**changed: Any) -> Snapshot:
    progress = Progress("replay", 1204, 3000, 88.0, Gauges(64, 2, "slowed down: 3 answers 429 in the last 30 s"))
    ledger = MigrationStatus(
        None,
        {"written": 1204, "planned": 1796, "skipped": 40},
        {"expired": 40},
        0,
        2,
        [LaneLeft("user/alice", 900), LaneLeft("user/bob", 896)],
        {},
        2,
        [],
        [],
        [],
        {},
    )
    cutover = {
        "phase": "shift",
        "percent": 25,
        "following": True,
        "lag_s": 12.0,
        "behind": 0,
        "problem": None,
    }
    shown: dict[str, Any] = {
        "now": NOON,
        "running": [RunningCommand("replay", "host", 1, AT, progress.to_json())],
        "state": State("state", ledger, [], None),
        "cutover": cutover,
        "gates": [
            GateResult(1, 0, "failed", "spectron-migrate replay", name="undelivered"),
            GateResult(0, 0, "passed", name="lag"),
        ],
        "max_lag_s": 60.0,
        "events": [
            {"at": "2026-05-04T11:59:58.000000Z", "event": "begin", "command": "cutover"},
            {"at": "2026-05-04T11:59:59.000000Z", "event": "end", "command": "cutover", "exit_code": 4},
            {"at": AT, "event": "doubt", "id": "m7", "why": "500"},
            {"at": AT, "event": "progress", **progress.to_json()},
        ],
    }
    return Snapshot(**{**shown, **changed})


def screen(width: int, shown: Snapshot | None = None, **options: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, height=50, force_terminal=True, **options)
    console.print(watch.draw(shown or snapshot(), width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_one_screen_has_phase_bar_rate_eta_lag_gates_lanes_and_events(width: int) -> None:
    text = screen(width, color_system=None)
    for part in (
        "phase shift",
        "1,204/3,000 40% 88/s ETA 20s in flight 64 doubt 2",
        "slowed down: 3 answers 429",
        "40 %",
        "12s of at most 1m 00s",
        "nobody",
        "25 % of users",
        "1 of 2 pass",
        "undelivered: spectron-migrate replay",
        "user/alice",
        "900",
        "12:00:00 doubt id m7, why 500",
        "11:59:58 command cutover began",
        "11:59:59 command cutover ended, exit code 4",
        "12:00:00 replay 1,204/3,000 40%",
    ):
        assert part in text, part
    assert all(len(line) <= width for line in text.splitlines())


def test_a_screen_of_80_columns_has_at_most_its_24_rows_of_what_counts_first() -> None:
    lines = screen(80, color_system=None).splitlines()
    assert any("in flight" in line for line in lines[:4])
    assert any("lag" in line for line in lines[:16])


def test_no_colour_is_needed_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = screen(80)
    assert "\x1b[3" not in text.replace("\x1b[3m", "")  # italics are no colour


def test_it_shows_what_there_is_before_anything_began() -> None:
    text = screen(80, Snapshot(NOON), color_system=None)
    assert "no migration yet" in text
    assert "no command is at work" in text


def test_what_takes_long_is_read_seldom() -> None:
    clock = [0.0]
    reads = []

    def read() -> int:
        clock[0] += 0.5
        reads.append(clock[0])
        return len(reads)

    paced = Paced(read, every_s=1.0, clock=lambda: clock[0])
    while clock[0] < 100:
        paced.get()
        clock[0] += 0.1
    assert 11 > len(reads)


def test_a_command_that_was_killed_is_no_longer_shown(tmp_path: Path) -> None:
    moment = NOON
    file = ProgressFile("replay", now=lambda: moment)
    file.write(tmp_path, Progress("replay", 5, 10).to_json())
    assert ["replay"] == [each.command for each in read_running(tmp_path, now=NOON + timedelta(seconds=10))]
    assert [] == read_running(tmp_path, now=NOON + timedelta(seconds=20))
    file.remove()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"at": 5}', '{"at": "x", "progress": {}}'])
def test_a_broken_progress_file_is_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "a-1.json").write_text(content)
    assert [] == read_running(tmp_path, now=NOON)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (["replay", "--dump", "all.json"], "replay"),
        (["replay", "--follow", "--max-seconds", "1"], "following: 1 round, 1 memory in Mem0"),
        (["dual-verify", "--dump", "all.json", "--sample", "2"], "recall"),
    ],
    ids=["replay", "follow", "dual-verify"],
)
def test_each_long_command_shows_its_progress_on_the_screen_of_the_others(
    words: list[str], stage: str, configured: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bar, lines, log and the other process's screen all draw the stage that a command begins with its reporter."""
    begun = []
    begin = TerminalReporter.stage

    def note(self: TerminalReporter, name: str, *args: Any, **named: Any) -> None:
        begun.append(name)
        begin(self, name, *args, **named)

    write_raw(Path("all.json"), [memory(number, user) for number in range(3)])
    row = point(uuid(1), data=f"{user} likes tea", user_id=user, created_at=AT, hash="x")
    write_store(Path("mem0"), [(key_of(uuid(1)), row)])
    config = {"vector_store": {"provider": "qdrant", "config": {"path": "mem0/store"}}}
    Path("mem0.json").write_text(json.dumps(config))
    Path("spectron-migrate.yaml").write_text("version: 1\nmem0: {oss: {config: mem0.json}}\ncutover: {settle: 0s}\n")
    if words[0] == "dual-verify":
        assert 0 == run(["replay", "--dump", "all.json", "-q"])
    monkeypatch.setattr(TerminalReporter, "stage", note)
    assert run([*words, "-q"]) in (0, 5, 8)
    assert any(name.startswith(stage) for name in begun), begun


def test_it_needs_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 2 == run(["status", "--watch", "--json"])
    assert "needs a terminal" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert 2 == run(["status", "--watch"])


@pytest.mark.slow
def test_it_draws_on_a_terminal_and_ends_by_ctrl_c_with_the_state(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "all.json", [memory(number, user) for number in range(4)])
    environment = environment_for(spectron)
    subprocess.run(command_line("replay", "--dump", "all.json", "-q"), cwd=tmp_path, env=environment, check=True)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        command_line("status", "--watch"),
        cwd=tmp_path,
        env={**environment, "TERM": "xterm-256color"},
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
    )
    os.close(theirs)
    shown = b""

    def has_drawn() -> bool:
        nonlocal shown
        shown += os.read(ours, 65536)
        return b"Ctrl-C ends it" in shown

    wait_until(has_drawn)
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass
    os.close(ours)
    assert 0 == process.wait(timeout=60)
    assert b"4 memories, 100 % written" in shown
    assert b"\x1b[?1049l" in shown, shown[-1500:]  # the screen from before is back
    assert b"dual-verify --dump all.json" in shown
