"""Progress on a terminal, in a log and for other processes; text from outside is shown and never obeyed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.cli import log
from spectron_migrate.cli.app import run
from spectron_migrate.cli.log import EventLog, read_tail
from spectron_migrate.cli.progress import Progress, StageProgress, span
from spectron_migrate.cli.terminal import TerminalReporter
from spectron_migrate.reporter import Gauges

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"
OBEYED = {"\x1b", "\x07", "\u202e"}
"""The characters of it that a terminal would act on."""
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Clock:
    """Moves only when it is told to, or while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds - 1000)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def busy() -> Gauges:
    return Gauges(in_flight=64, in_doubt=0)


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


def test_control_characters_of_an_id_are_shown_escaped_in_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_CONTEXT", "c")
    rows = [{"id": f"m{ESCAPE}", "user_id": "u"}, {"id": "n", "memory": ESCAPE, "user_id": ESCAPE}]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    run(["replay", "--dump", "all.json", "--dry-run"])
    shown = "".join(capfd.readouterr())
    assert r"m\x1b]0;owned\x07\x1b[2J\x202e" in shown
    assert set() == OBEYED & set(shown)


def test_a_reporter_shows_control_characters_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    TerminalReporter().info(ESCAPE)
    assert set() == OBEYED & set(capfd.readouterr().err)


# -- lines ----------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_line_every_30_seconds(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(clock=clock)
    reporter.stage("replay", 3000, gauges=busy)
    for _ in range(59):
        clock.seconds += 1
        reporter.advance(40)
    assert ["replay 1,200/3,000 40% 40/s ETA 45s in flight 64 doubt 0"] == lines_of(capfd)


def test_a_line_is_also_written_while_nothing_is_done(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(progress="lines", clock=clock, sleep=clock.sleep)

    async def hang() -> None:
        async with reporter.ticking():
            reporter.stage("replay", 10, gauges=lambda: Gauges(4, 2, "paused for 9 s, as the server asked"))
            while clock.seconds < 1065:
                await clock.sleep(0)

    asyncio.run(hang())
    line = "replay 0/10 0% 0/s ETA ? in flight 4 doubt 2 (paused for 9 s, as the server asked)"
    assert [line, line] == lines_of(capfd)


def test_a_stage_that_wrote_lines_ends_with_one(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(clock=clock)
    reporter.stage("export", 40)
    for _ in range(40):
        clock.seconds += 1
        reporter.advance()
    reporter.close()
    assert ["export 30/40 75% 1.0/s ETA 10s", "export 40/40 100% 1.0/s"] == lines_of(capfd)


def test_a_short_stage_writes_nothing(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(clock=clock)
    reporter.stage("replay", 3000)
    for _ in range(3000):
        clock.seconds += 0.001
        reporter.advance()
    reporter.close()
    assert [] == lines_of(capfd)


def test_progress_none_writes_no_line(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(progress="none", clock=clock)
    reporter.stage("replay", 3000)
    clock.seconds += 100
    reporter.advance()
    reporter.close()
    assert [] == lines_of(capfd)


def test_a_warning_is_shown_once(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    reporter.warn("never probed")
    reporter.warn("never probed")
    assert ["warning: never probed"] == lines_of(capfd)
    assert ["never probed"] == reporter.warnings


# -- rate and ETA ---------------------------------------------------------------------------------------------


def test_after_a_resume_the_percentage_is_of_all_and_the_rate_of_this_run(clock: Clock) -> None:
    stage = StageProgress("replay", 1000, done=900, now=clock())
    clock.seconds += 10
    stage.done += 20
    shown = stage.at(clock())
    assert "920/1,000 92% 2.0/s ETA 40s" == shown.counts


def test_a_stage_that_slows_down_promises_less(clock: Clock) -> None:
    stage = StageProgress("replay", 100_000, now=clock())
    for _ in range(60):
        clock.seconds += 1
        stage.done += 1000
        stage.at(clock())
    for _ in range(120):
        clock.seconds += 1
        stage.done += 10
        stage.at(clock())
    rate = stage.at(clock()).rate
    assert rate is not None
    assert rate == pytest.approx(10, rel=0.01)


def test_the_samples_of_a_rate_stay_few(clock: Clock) -> None:
    stage = StageProgress("replay", 10**9, now=clock())
    for _ in range(5000):
        clock.seconds += 0.5
        stage.done += 1
        stage.at(clock())
    assert 70 > len(stage._samples)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "0s"), (59.4, "59s"), (320, "5m 20s"), (7500, "2h 05m"), (274_000, "3d 4h")],
)
def test_a_duration_is_short(seconds: float | None, text: str) -> None:
    assert text == span(seconds)


def test_progress_survives_json() -> None:
    shown = Progress("replay", 5, 10, 2.5, Gauges(3, 1, "slow"))
    assert shown == Progress.from_json(json.loads(json.dumps(shown.to_json())))
    assert Progress("export", 5) == Progress.from_json(Progress("export", 5).to_json())


# -- the log --------------------------------------------------------------------------------------------------


def test_every_minute_is_in_the_log(clock: Clock, tmp_path: Path) -> None:
    events = EventLog(tmp_path, now=clock.now)
    reporter = TerminalReporter(progress="none", log=events, clock=clock)
    reporter.stage("replay", 100, gauges=busy)
    for _ in range(100):
        clock.seconds += 1.5
        reporter.advance()
    logged = read_tail(tmp_path, 100)
    assert [("progress", 40), ("progress", 80)] == [(each["event"], each["done"]) for each in logged]
    assert 64 == logged[0]["in_flight"]


def test_events_before_there_is_a_state_directory_are_kept_until_there_is_one(clock: Clock, tmp_path: Path) -> None:
    state = tmp_path / "state"
    events = EventLog(state, now=clock.now)
    events.hold("begin", command="replay")
    events.write("doubt", id="m1")
    assert not state.exists()
    state.mkdir()
    events.write("end", exit_code=0)
    assert ["begin", "doubt", "end"] == [each["event"] for each in read_tail(state, 10)]


def test_a_large_log_is_rotated_and_few_are_kept(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LARGEST", 1000)
    events = EventLog(tmp_path, now=clock.now)
    for number in range(200):
        events.write("doubt", number=number)
    kept = sorted(path.name for path in tmp_path.glob("log.jsonl*"))
    assert ["log.jsonl.1", "log.jsonl.2", "log.jsonl.3"] == [name for name in kept if name != "log.jsonl"]
    numbers = [
        json.loads(line)["number"]
        for name in ("log.jsonl.3", "log.jsonl.2", "log.jsonl.1", "log.jsonl")
        if (tmp_path / name).exists()
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert list(range(numbers[0], 200)) == numbers
    assert 0o600 == (tmp_path / "log.jsonl.1").stat().st_mode & 0o777


def test_a_log_that_cannot_be_written_hides_nothing(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    events = EventLog(tmp_path, now=clock.now)
    events.write("end", exit_code=0)
    assert [] == read_tail(tmp_path, 5)


# -- the bar --------------------------------------------------------------------------------------------------

SCRIPT = """
import signal, sys
from spectron_migrate.cli.terminal import TerminalReporter
from spectron_migrate.reporter import Gauges
clock = [0.0]
reporter = TerminalReporter(clock=lambda: clock[0])
reporter.stage("replay", 3000, done=1000, gauges=lambda: Gauges(64, 0, sys.argv[1]))
for _ in range(204):
    clock[0] += 0.1
    reporter.advance()
reporter.warn("in between")
reporter.close()
reporter.info("stopped")
"""


def drawn(columns: int, slowed: str = "") -> Iterator[str]:
    """What a terminal of this width shows, update by update."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, slowed],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=dict(os.environ),
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the child has closed its side
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert 0 == child.wait(timeout=60)
    yield from re.split(r"[\r\n]+", shown.decode())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_an_interrupted_bar_stays_as_it_was_and_began_where_it_was(columns: int) -> None:
    lines = [line for line in drawn(columns) if line.strip()]
    assert "stopped" == lines[-1]
    assert "1,204/3,000 40% 10/s" in lines[-2]
    assert "1,0" in lines[0]
    assert all(len(line) < columns for line in lines)
    assert any(line.strip() == "warning: in between" for line in lines)


def test_what_slows_a_replay_down_is_shown_where_there_is_room() -> None:
    slowed = "slowed down: 12 answers 429 in the last 30 s, 8 in flight"
    assert any(slowed in line for line in drawn(200, slowed))
    assert not any(slowed in line for line in drawn(80, slowed))
