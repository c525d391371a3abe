"""`replay --follow`: round after round, through outages and kills, until somebody stops it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from datetime import datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cutover.status import cutover_status
from spectron_migrate.errors import ExitCode, Incomplete, LedgerLocked, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.compare_beside import BesideComparison
from spectron_migrate.migration.comparing import Comparing
from spectron_migrate.migration.drain_outbox import Drained
from spectron_migrate.migration.follow import HELD
from spectron_migrate.migration.reconcile import read_last_result as last_reconciled
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds
from spectron_migrate.records import format_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.call_log import CallLog, CallSubject, unknown_line
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.following import FOLLOW_FILE, is_followed, why_undrained
from spectron_migrate.state.journal import read_journal, record_step
from spectron_migrate.state.routing import name_of, read_routing
from spectron_migrate.state.store import read_object
from spectron_migrate.state.unreachable import StateUnreachable
from tests.mem0.qdrant_points import uuid
from tests.migration.support import environment_of, following, read_until, write_settings
from tests.support.command import command
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.scene import NOON, Scene, Store
from tests.support.spectron import turns_of
from tests.support.warm import start_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def begin(scene: Scene) -> str:
    migration = "f" * 16
    record_step(scene.state, Step("start", format_time(scene.time.now()), "anna", migration=migration))
    return migration


def test_rounds_follow_until_the_time_is_over_and_quiet_ones_share_a_line(scene: Scene) -> None:
    scene.put(1, "one")
    done = scene.follow(max_seconds=12)
    assert ExitCode.DONE == done.exit_code
    assert 3 == done.rounds
    assert 1 == done.written
    assert 2 == len(scene.reporter.lines)
    assert "1 memory in Mem0; 1 new" in scene.reporter.lines[0]
    assert "rounds 2 to 3: nothing changed" in scene.reporter.lines[1]
    told = read_object(scene.state, FOLLOW_FILE)
    assert told is not None
    assert 0 == told["missed"]
    assert 3 == told["rounds"]
    assert told["problem"] is None
    assert "the time limit was reached" == told["ended"]


def test_what_still_waits_when_the_time_is_over_is_a_remainder(scene: Scene) -> None:
    scene.put(1, "one", ago=5)
    done = scene.follow(max_seconds=12)
    assert ExitCode.LIMIT == done.exit_code
    assert 1 == done.waiting
    assert 0 == done.written


def test_readers_learn_who_is_behind_and_until_when_that_holds(scene: Scene) -> None:
    migration = begin(scene)
    scene.put(1, "one")
    scene.put(2, "two", ago=5)
    began = scene.time.moment
    scene.follow(max_seconds=3)
    routing = read_routing(scene.state)
    assert routing is not None
    assert routing.as_of is not None
    assert {name_of(migration, scene.user)} == routing.behind
    assert datetime.fromisoformat(routing.as_of).timestamp() + 60 == pytest.approx(routing.fresh_until, abs=0.01)
    assert began.timestamp() <= datetime.fromisoformat(routing.as_of).timestamp()
    scene.time.pass_(60)
    scene.follow(max_seconds=3)
    routing = read_routing(scene.state)
    assert routing is not None
    assert frozenset() == routing.behind


def test_two_comparisons_in_a_row_are_kept_for_the_gates(scene: Scene) -> None:
    begin(scene)
    scene.put(1, "one")
    scene.follow(max_seconds=3)
    assert last_reconciled(scene.state) is None
    scene.follow(max_seconds=12)
    found = last_reconciled(scene.state)
    assert found is not None
    assert found.agree
    assert found.quiet
    assert 1 == found.memories
    assert 0 == found.differences


def test_mem0_out_of_reach_is_waited_out_and_told(scene: Scene) -> None:
    scene.put(1, "one")
    tries: list[datetime] = []

    def sometimes(now: datetime) -> Reader:
        tries.append(now)
        if len(tries) <= 3:
            raise Unreachable("Mem0 cannot be reached")
        return scene.store.open(now)

    scene.open_reader = sometimes
    done = scene.follow(max_seconds=10)
    assert ExitCode.DONE == done.exit_code
    assert 1 == done.written
    waited = [line.rpartition("again in ")[2] for line in scene.reporter.lines if "cannot be reached" in line]
    assert ["1 s", "2 s", "4 s"] == waited


def test_spectron_out_of_reach_is_waited_out_and_told(user: str, tmp_path: Path) -> None:
    with running_server(tmp_path / "data", context="tests") as server:
        scene = Scene(Store(tmp_path / "mem0"), server, tmp_path, user)
        scene.put(1, "one")
        scene.round()
        scene.put(2, "two")
        server.kill()
        sleeps: list[float] = []

        async def restarts(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == 3:
                await asyncio.to_thread(server.start)
            await scene.time.sleep(seconds)

        done = scene.follow(max_seconds=400, sleep=restarts)
        assert ExitCode.DONE == done.exit_code
        assert 1 == done.written
        assert any("not everything was delivered" in line for line in scene.reporter.lines)
        assert ["one", "two"] == scene.texts


def test_a_state_out_of_reach_is_waited_out_and_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its database goes away while the process holds its lock."""
    away = 0

    def journal(state: Any) -> Any:
        if away > 0:
            raise StateUnreachable("the database of the state does not answer")
        return read_journal(state)

    async def sleep(seconds: float) -> None:
        nonlocal away
        away -= 1
        if uuid(2) not in scene.store.rows:
            scene.put(2, "two")
            away = 3
        await scene.time.sleep(seconds)

    monkeypatch.setattr("spectron_migrate.migration.rounds.read_journal", journal)
    monkeypatch.setattr("spectron_migrate.migration.comparing.BESIDE_FROM_S", -1.0)
    scene.put(1, "one")
    done = scene.follow(max_seconds=30, sleep=sleep)
    assert ExitCode.DONE == done.exit_code
    assert ["one", "two"] == scene.texts
    assert any("does not answer; again in 1 s" in line for line in scene.reporter.lines)


def test_a_comparison_that_fails_hides_nothing_of_its_round(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[int] = []

    async def conclude(self: Comparing, done: Round) -> None:
        if done.new and renewed:
            raise Incomplete("Mem0 could not be read in full")

    async def sleep(seconds: float) -> None:
        if uuid(2) not in scene.store.rows:
            scene.put(2, "two")
        await scene.time.sleep(seconds)

    monkeypatch.setattr(Comparing, "conclude", conclude)
    scene.put(1, "one")
    done = scene.follow(max_seconds=10, sleep=sleep, after_changes=lambda: renewed.append(1))
    assert 2 == done.new
    assert 2 == len(renewed)
    assert any("2 memories in Mem0; 1 new" in line for line in scene.reporter.lines)


def test_what_ended_it_is_not_hidden_by_an_error_of_the_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by that of a comparison that still ran, nor by that of the report; the store is closed."""
    began: list[Rounds] = []
    closed: list[Rounds] = []
    stopped = threading.Event()

    def fails() -> None:
        if len(began) == 3:
            raise OSError("no space for the report")

    def reading(self: BesideComparison) -> None:
        assert stopped.wait(60)
        raise ValueError("a bug in the reading")

    async def ends(self: Rounds, api: SpectronApi, **named: Any) -> Round:
        began.append(self)
        if len(began) == 3:
            raise KeyError("what ended it")
        scene.put(len(began), f"thing {len(began)}")
        return await run(self, api, **named)

    run, close = Rounds.round, Rounds.close
    monkeypatch.setattr(BesideComparison, "read", reading)
    monkeypatch.setattr(BesideComparison, "stop", lambda self: stopped.set())
    monkeypatch.setattr(Comparing, "is_beside", True)
    monkeypatch.setattr(Rounds, "round", ends)
    monkeypatch.setattr(Rounds, "close", lambda self: (closed.append(self), close(self))[0])
    with pytest.raises(KeyError, match="what ended it"):
        scene.follow(max_seconds=100, after_changes=fails)
    assert 1 == len(closed)
    assert "stopped" == (read_object(scene.state, FOLLOW_FILE) or {})["ended"]


@pytest.mark.ledger_file  # in a database it waits
def test_in_a_directory_one_process_follows(scene: Scene) -> None:
    scene.put(1, "one")
    others: list[LedgerLocked] = []

    async def meanwhile(seconds: float) -> None:
        if not others:
            assert is_followed(scene.state)
            with pytest.raises(LedgerLocked, match=rf"process {os.getpid()}\b.* follows") as refused:
                async with scene.api() as api:
                    await scene.follower().run(api)
            others.append(refused.value)
        await scene.time.sleep(seconds)

    scene.follow(max_seconds=8, sleep=meanwhile)
    assert 1 == len(others)
    assert not is_followed(scene.state)


def test_it_gives_way_to_whoever_writes_the_ledger(scene: Scene) -> None:
    scene.put(1, "one")
    scene.round()
    scene.put(2, "two")
    held = [Ledger.open_for_writing(scene.state)]

    async def lets_go(seconds: float) -> None:
        if seconds > 3 and held:
            held.pop().close()
        await scene.time.sleep(seconds)

    done = scene.follow(max_seconds=30, sleep=lets_go)
    assert ExitCode.DONE == done.exit_code
    assert 1 == done.written
    assert "is being written by process" in scene.reporter.lines[0]


@pytest.mark.parametrize("ends", ["abort", "complete"])
def test_the_end_of_the_cutover_ends_it(scene: Scene, ends: Any) -> None:
    begin(scene)
    scene.put(1, "one")
    sleeps: list[float] = []

    async def then(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 2:
            record_step(scene.state, Step(ends, format_time(scene.time.now()), "anna"))
        await scene.time.sleep(seconds)

    done = scene.follow(sleep=then)
    assert ExitCode.DONE == done.exit_code
    assert 2 == done.rounds
    assert done.ended in ("the cutover is mem0", "the cutover is complete")


# -- as processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_cleanly(
    spectron: RunningServer, user: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    store = Store(tmp_path / "mem0")
    store.put(1, "one", user, datetime.fromisoformat("2026-05-01T00:00:00Z"))
    write_settings(tmp_path, store)
    process = following(tmp_path, spectron)
    read_until(process, lambda line: "round 1:" in line)
    process.send_signal(sent)
    out, said = process.communicate(timeout=30)
    assert code == process.returncode, said
    assert "Following ended" in out
    assert ["one"] == [turn.content for turn in turns_of(spectron, user)]


def test_json_is_one_object_and_useless_options_are_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "mem0")
    store.put(1, "one", user, datetime.fromisoformat("2026-05-01T00:00:00Z"))
    write_settings(tmp_path, store)

    def follow(*words: str) -> dict[str, Any]:
        words = ("replay", "--follow", "--json", *words)
        answer: dict[str, Any] = json.loads(command(tmp_path, *words, environment=environment_of(spectron)).stdout)
        return answer

    told = follow("--max-seconds", "1")
    assert 0 == told["exit_code"]
    assert 1 == told["written"]
    assert 0 == told["waiting"]
    assert "the time limit was reached" == told["ended"]
    for useless in (["--user", user, "--limit", "3"], ["--dry-run"]):
        refused = follow(*useless)
        assert 2 == refused["exit_code"]
        assert "--follow" == refused["error"]["message"].split()[0]


@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_any_moment_and_another_start_end_the_same(
    spectron: RunningServer, user: str, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    store = Store(tmp_path / "mem0")
    write_settings(tmp_path, store)
    number = 0
    running: list[ForkServerProcess] = []
    fatal = [0]

    def kill_at(seen: Seen) -> Fault:
        fatal[0] -= 1
        if fatal[0] == 0:
            running[-1].kill()
        return dice.choice(("none", "cut_after")) if fatal[0] == 0 else "none"

    with misbehaving(spectron.base_url, kill_at) as proxy:
        for _ in range(4):
            for _ in range(8):
                number += 1
                store.put(number, f"thing {number:03d}", user, _at(number))
            fatal[0] = dice.randrange(2, 12)
            environment = {**environment_of(spectron), "SPECTRON_ENDPOINT": proxy.base_url}
            running.append(start_command(tmp_path, "replay", "--follow", environment=environment))
            running[-1].join(60)
            assert -signal.SIGKILL == running[-1].exitcode
    process = following(tmp_path, spectron)
    read_until(process, lambda line: "round 1:" in line)
    process.terminate()
    process.communicate(timeout=30)
    assert [f"thing {each:03d}" for each in range(1, number + 1)] == [turn.content for turn in turns_of(spectron, user)]


def _at(number: int) -> datetime:
    return datetime.fromisoformat(f"2026-05-01T{number // 60:02d}:{number % 60:02d}:00Z")


def test_a_pause_ends_before_what_readers_know_runs_out(scene: Scene) -> None:
    scene.put(1, "one")
    pauses: list[float] = []

    def slowly(now: datetime) -> Reader:
        scene.time.pass_(20)  # so long takes the reading of a large store
        return scene.store.open(now)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await scene.time.sleep(seconds)

    scene.open_reader = slowly
    scene.follow(max_seconds=100, sleep=sleep)
    assert pauses[0] + 2 * 20 < scene.settings.max_lag_s
    assert [] == scene.reporter.warnings
    scene.open_reader = lambda now: (scene.time.pass_(30), scene.store.open(now))[1]
    scene.follow(max_seconds=100)
    assert "cutover.max_lag (60 s) should be above 90 s" in scene.reporter.warnings[0]


def begin_by_outbox(scene: Scene) -> None:
    started = format_time(scene.time.now())
    record_step(scene.state, Step("start", started, "anna", migration="f" * 16, catch_up="outbox"))
    scene.time.pass_(1)


def test_an_outbox_is_drained_between_rounds_and_mem0_is_read_on_the_timer(scene: Scene) -> None:
    begin_by_outbox(scene)
    scene.put(1, "one")
    done = scene.follow(max_seconds=60)
    assert 2 == done.rounds  # which agree; the next comparison is due after ten minutes
    assert ["one"] == scene.texts
    routing = read_routing(scene.state)
    assert routing is not None
    age = scene.time.moment - datetime.fromisoformat(routing.as_of or "")
    assert age.total_seconds() < 2
    assert frozenset() == routing.behind


@pytest.mark.both_engines
def test_what_a_replay_beside_it_costs_is_said_until_it_has_ended(scene: Scene) -> None:
    begin_by_outbox(scene)
    scene.put(1, "one")
    scene.follow(max_seconds=20)
    ledger = Ledger.open_for_delivery(scene.state)
    if ledger.workers is not None:
        assert ledger.workers.try_join()
        ledger.workers.let_others_join()
    held = [ledger]
    told: list[str | None] = []
    began = scene.time.clock()

    async def beside(seconds: float) -> None:
        if scene.time.clock() - began > 10 and held:
            assert f"{HELD}: the ledger in " in (why_undrained(scene.state) or "")
            status = cutover_status(scene.state, now=scene.time.moment)
            assert status is not None
            told.append(status["problem"])
            held.pop().close()
        await scene.time.sleep(seconds)

    follow = scene.follower(max_seconds=30, sleep=beside)
    follow._round_at = scene.time.clock() + 600  # it has read Mem0, and only drains

    async def run() -> None:
        async with scene.api() as api:
            await follow.run(api)

    asyncio.run(run())
    assert 1 == len(told)
    assert f"is being written by process {os.getpid()}" in (told[0] or "")
    assert 1 == sum(HELD in line for line in scene.reporter.lines)
    after = read_object(scene.state, FOLLOW_FILE)
    assert after is not None
    assert after["problem"] is None


@pytest.mark.ledger_file
def test_a_call_of_unknown_results_has_mem0_read_before_the_timer(scene: Scene) -> None:
    begin_by_outbox(scene)
    scene.put(1, "one")
    scene.follow(max_seconds=20)
    now = scene.time.moment.timestamp()
    CallLog(scene.state).append(unknown_line("41:a/1", now + 30, CallSubject((scene.user,))))
    done = scene.follow(max_seconds=120)
    assert 3 <= done.rounds
    routing = read_routing(scene.state)
    assert routing is not None
    assert frozenset() == routing.behind


def test_a_pause_is_twice_as_long_as_mem0_was_read_and_no_longer_for_what_else_a_round_does(scene: Scene) -> None:
    scene.put(1, "one")
    pauses: list[float] = []

    def open_reader(now: datetime) -> Reader:
        if not pauses:
            scene.time.pass_(6)
        return scene.store.open(now)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        scene.time.pass_(seconds)
        scene.put(1 + len(pauses), "another one", ago=1000)
        await asyncio.sleep(0)

    scene.open_reader = open_reader
    follow = scene.follower(max_seconds=60.0, sleep=sleep, after_changes=lambda: scene.time.pass_(8))

    async def run() -> None:
        async with scene.api() as api:
            await follow.run(api)

    asyncio.run(run())
    assert 12 == round(pauses[0])
    assert 5 == round(pauses[1]), "only what changed was read, which took no time"


def test_what_is_written_about_changes_takes_a_twentieth_of_the_time(scene: Scene) -> None:
    scene.put(1, "one")
    began, noted = scene.time.clock(), []

    def note() -> None:
        noted.append(scene.time.clock() - began)
        scene.time.pass_(3)

    async def sleep(seconds: float) -> None:
        scene.time.pass_(seconds)
        scene.put(int(scene.time.clock()) % 10_000, "another one", ago=1000)
        await asyncio.sleep(0)

    follow = scene.follower(max_seconds=200.0, sleep=sleep, after_changes=note)

    async def run() -> None:
        async with scene.api() as api:
            await follow.run(api)

    asyncio.run(run())
    assert 4 <= len(noted) <= 5, "at once, then once a minute, and at the end"


def test_drains_too_renew_what_is_written_about_changes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several times a second something is drained; what depends on it is renewed every few seconds, and at the end."""
    scene.put(1, "a text", ago=3000)
    began, noted = scene.time.clock(), []
    follow = scene.follower(max_seconds=35.0, after_changes=lambda: noted.append(scene.time.clock() - began))

    async def drain(rounds: Rounds, api: SpectronApi) -> Drained:
        taken = 1 if scene.time.clock() - began < 30 else 0
        return Drained(taken, 0, Undecided(0, 0, 0), 0, NOON.isoformat(), frozenset())

    monkeypatch.setattr(Rounds, "drains_outbox", lambda rounds: True)
    monkeypatch.setattr(Rounds, "outbox_waits", lambda rounds: True)
    monkeypatch.setattr(Rounds, "drain", drain)

    async def run() -> None:
        async with scene.api() as api:
            await follow.run(api)

    asyncio.run(run())
    assert 30 <= noted[-1], "as new as the last drain"
    assert len(noted) < 10, "and not renewed by each of some hundred"
