"""The steps: what is legal when, what keeps reads back, and how they go back at once."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cutover import ungated_steps
from spectron_migrate.cutover.gated_steps import Cutover
from spectron_migrate.cutover.phases import LEGAL, StepResult
from spectron_migrate.cutover.privacy import write_privacy_report
from spectron_migrate.errors import ExitCode, InputError, LedgerLocked, NotConfirmed, NotLegal
from spectron_migrate.ledger import Ledger, migration_id
from spectron_migrate.ledger.shards import Shard
from spectron_migrate.mem0.open import mem0_source_info
from spectron_migrate.migration.reconcile import read_last_result as last_reconciled
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.migration.rounds import round_lock
from spectron_migrate.records import format_time
from spectron_migrate.state import processes
from spectron_migrate.state.journal import Step, read_journal, record_step
from spectron_migrate.state.routing import FILE as ROUTING
from spectron_migrate.state.routing import PHASES, Phase, RoutingReader, read_routing
from tests.cutover.support import Scene
from tests.support.spectron import replay
from tests.support.waiting import wait_until
from tests.verify.support import verify


@dataclass
class Player:
    """Takes steps on a scene."""

    scene: Scene

    @property
    def signed(self) -> dict[str, Any]:
        return {"now": format_time(self.scene.time.now()), "who": "anna@host (1)", "reporter": self.scene.said}

    @property
    def migration(self) -> str:
        return migration_id(self.scene.server.context, mem0_source_info(self.scene.store.config).identity)

    def cutover(self, **named: Any) -> Cutover:
        scene = self.scene
        given: dict[str, Any] = {"now": scene.time.now, "sleep": scene.time.sleep, **named}
        return Cutover(
            scene.state, lambda: scene.settings, max_age_s=86400, reporter=scene.said, who="anna@host (1)", **given
        )

    def start(self) -> StepResult:
        return ungated_steps.start(self.scene.state, self.migration, "follow", **self.signed)

    def revert(self) -> StepResult:
        return ungated_steps.revert(self.scene.state, **self.signed)

    def abort(self, *, yes: bool = True) -> StepResult:
        return ungated_steps.abort(self.scene.state, yes=yes, **self.signed)

    def shift(self, percent: float, *users: str, **named: Any) -> StepResult:
        return asyncio.run(self.cutover(**named).shift(self.scene.api, percent, users))

    def complete(self, migration: str | None = None, *, yes: bool = True, **named: Any) -> StepResult:
        return asyncio.run(self.cutover(**named).complete(self.scene.api, migration or self.migration, yes=yes))

    def check(self) -> StepResult:
        return self._asked(self.cutover().check)

    def accept(self, gate: str, *ids: str) -> StepResult:
        return self._asked(lambda api: self.cutover().accept(api, gate, ids, why="seen by hand"))

    def _asked(self, work: Callable[[Any], Any]) -> StepResult:
        async def run() -> StepResult:
            async with self.scene.api() as api:
                stand: StepResult = await work(api)
                return stand

        return asyncio.run(run())

    def made_ready(self) -> None:
        """Start, follow, verify, accept: every gate passes."""
        self.start()
        self.scene.follow(max_seconds=12)
        verify(self.scene.server, self.scene.state, [self.scene.settings.dump], now=self.scene.time.now)
        if not gate(self.check(), "verdict").passed:
            self.accept("verdict")


@pytest.fixture
def player(scene: Scene) -> Player:
    """On a scene with a few memories of two users."""
    for number in range(6):
        user = scene.user if number % 2 else f"{scene.user}b"
        at = scene.time.moment - timedelta(hours=2, minutes=-number)
        scene.store.put(number, f"{user} keeps thing number {number}", user, at)
    return Player(scene)


def gate(stand: StepResult, name: str) -> Any:
    return next(each for each in stand.gates if each.name == name)


def put_into(player: Player, phase: Phase) -> None:
    """The journal of a cutover in this phase."""
    way: dict[Phase, list[Any]] = {
        "mem0": [],
        "started": ["start"],
        "shift": ["start", "shift"],
        "closing": ["start", "shift", "closing"],
        "complete": ["start", "shift", "closing", "complete"],
    }
    for name in way[phase]:
        more = {"migration": player.migration} if name == "start" else {"percent": 100.0} if name == "shift" else {}
        record_step(player.scene.state, Step(name, format_time(player.scene.time.now()), "anna", **more))


COMMANDS: dict[str, Callable[[Player], Any]] = {
    "start": lambda player: player.start(),
    "shift": lambda player: player.shift(5),
    "accept": lambda player: player.accept("refused"),
    "revert": lambda player: player.revert(),
    "complete": lambda player: player.complete(),
    "abort": lambda player: player.abort(),
}


@pytest.mark.parametrize(
    ("phase", "command"),
    [(phase, command) for phase in PHASES for command in COMMANDS if command not in LEGAL[phase]],
)
def test_every_illegal_step_is_refused_says_what_is_legal_and_changes_nothing(
    player: Player, phase: Phase, command: str
) -> None:
    put_into(player, phase)
    before = read_journal(player.scene.state)
    with pytest.raises(NotLegal) as refused:
        COMMANDS[command](player)
    assert ExitCode.NOT_LEGAL == refused.value.exit_code
    assert f"`cutover {command}` is not legal" in refused.value.message
    for each in LEGAL[phase]:
        assert f"cutover {each}" in (refused.value.hint or "")
    assert before == read_journal(player.scene.state)


def test_complete_is_not_legal_before_everybody_is_read_from_spectron(player: Player) -> None:
    put_into(player, "shift")
    stamp = format_time(player.scene.time.now())
    record_step(player.scene.state, Step("shift", stamp, "anna", percent=50))
    with pytest.raises(NotLegal, match="while 50 % are read"):
        player.complete()
    record_step(player.scene.state, Step("shift", stamp, "anna", percent=100))
    record_step(player.scene.state, Step("pin", stamp, "anna", mem0=("alice",)))
    with pytest.raises(NotLegal, match="1 user pinned to Mem0"):
        player.complete()


def test_complete_and_abort_ask(player: Player) -> None:
    put_into(player, "shift")
    for refused in (
        lambda: player.complete(yes=False),
        lambda: player.complete("another", yes=True),
        lambda: player.abort(yes=False),
    ):
        with pytest.raises(NotConfirmed) as told:
            refused()
        assert ExitCode.NOT_CONFIRMED == told.value.exit_code
    assert "shift" == read_journal(player.scene.state).state.phase


def test_outbox_is_refused_where_two_hosts_write(player: Player) -> None:
    state = player.scene.state
    state.mkdir(exist_ok=True)
    own = processes.OwnFile(state)
    own.write(processes.ProcessStatus(host="another-host", pid=own.pid, began="", heartbeat=""))
    with pytest.raises(InputError, match="another-host"):
        ungated_steps.start(state, player.migration, "outbox", **player.signed)
    own.close()


def test_a_start_by_outbox_waits_until_every_process_captures(player: Player) -> None:
    state, waits = player.scene.state, 0
    state.mkdir(exist_ok=True)
    own = processes.OwnFile(state)
    told = processes.ProcessStatus(host=socket.gethostname(), pid=own.pid, began="", heartbeat="")
    own.write(told)

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            own.write(replace(told, epoch=1))

    stand = ungated_steps.start(state, player.migration, "outbox", **player.signed, sleep=sleep)
    assert (3, "outbox") == (waits, stand.state.catch_up)
    own.close()


def test_a_step_that_changes_nothing_may_be_repeated(player: Player) -> None:
    player.start()
    fence = read_journal(player.scene.state).state.fence
    assert "had already begun" in player.start().note
    assert fence == read_journal(player.scene.state).state.fence
    assert ("started", "started") == (player.revert().state.phase, player.revert().state.phase)


@pytest.mark.parametrize("percent", [50.001, 100.5, -1])
def test_a_share_that_is_none_is_refused(player: Player, percent: float) -> None:
    player.start()
    with pytest.raises(InputError):
        player.shift(percent)
    with pytest.raises(InputError):
        player.shift(50, "alice")


def test_reads_move_only_while_every_gate_passes_and_back_without_any(player: Player) -> None:
    player.start()
    held = player.shift(10)
    assert (ExitCode.NO_GO, "started", 0) == (held.exit_code, held.state.phase, held.state.percent)
    assert {"verdict", "leaks"} == {each.name for each in held.gates if not each.passed}
    player.made_ready()
    moved = player.shift(50)
    assert (ExitCode.DONE, "shift", 50, True) == (moved.exit_code, moved.state.phase, moved.state.percent, moved.ready)
    steps = read_journal(player.scene.state).steps
    assert ("shift", [each.name for each in moved.gates]) == (
        steps[-1].step,
        [each["name"] for each in steps[-1].gates],
    )
    player.scene.open_reader = None
    player.scene.server.kill()
    try:
        assert 10 == player.shift(10).state.percent
        assert 0 == player.shift(0).state.percent
        assert "started" == player.revert().state.phase
    finally:
        player.scene.server.restart()


def test_single_users_go_over_and_back(player: Player) -> None:
    player.made_ready()
    user = player.scene.user
    player.shift(100, user)
    routing = read_routing(player.scene.state / ROUTING)
    assert routing is not None
    moment = player.scene.time.moment.timestamp()
    assert ["spectron", "mem0"] == [routing.route(user_id=each, now=moment) for each in (user, f"{user}b")]
    player.shift(100)
    player.shift(0, user)
    routing = read_routing(player.scene.state / ROUTING)
    assert routing is not None
    assert ["mem0", "spectron"] == [routing.route(user_id=each, now=moment) for each in (user, f"{user}b")]


def test_who_reverts_meanwhile_is_not_overruled(player: Player) -> None:
    player.made_ready()
    player.shift(5)

    def while_it_reads(now: Any) -> Any:
        if read_journal(player.scene.state).state.phase == "shift":
            player.revert()
        return player.scene.store.open(now)

    player.scene.open_reader = while_it_reads
    with pytest.raises(InputError, match="another step"):
        player.shift(50)
    assert ("started", 0) == ((state := read_journal(player.scene.state).state).phase, state.percent)


def test_a_shift_catches_up_first_with_what_bypasses_us(player: Player) -> None:
    player.made_ready()
    player.scene.put(90, "written by a script nobody told us of", ago=600)
    player.scene.store.drop(1)
    stand = player.shift(50)
    assert (ExitCode.DONE, True, 6) == (stand.exit_code, stand.reconciled.agree, stand.reconciled.memories)  # type: ignore[union-attr]
    assert "written by a script nobody told us of" in player.scene.texts


def test_complete_waits_for_what_is_young_then_carries_over_what_came_while_applications_went_over(
    player: Player,
) -> None:
    player.made_ready()
    player.shift(100)
    player.scene.put(90, "young", ago=1)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if read_journal(player.scene.state).state.phase == "complete" and len(slept) < 100:
            slept.extend([0.0] * 100)
            player.scene.put(91, "a straggler, after the flip", ago=0)
        await player.scene.time.sleep(seconds)

    stand = player.complete(sleep=sleep)
    assert (ExitCode.DONE, "complete", True) == (stand.exit_code, stand.state.phase, stand.state.sealed)
    assert ["young", "a straggler, after the flip"] == player.scene.texts[-2:]
    assert ["closing", "complete", "sealed"] == [each.step for each in read_journal(player.scene.state).steps[-3:]]
    with Ledger.open_for_reading(player.scene.state) as ledger:
        rows = ledger.db.execute("SELECT infer FROM fact ORDER BY id DESC LIMIT 2").fetchall()
    assert ["none", "full"] == [row["infer"] for row in rows]
    assert "the cutover is complete since" in player.complete().note
    assert (ExitCode.DONE, ()) == ((checked := player.check()).exit_code, checked.gates)


def test_complete_leaves_mem0_only_when_it_stands_still_and_can_be_gone_on_with(player: Player) -> None:
    player.made_ready()
    player.shift(100)
    number = iter(range(100, 1000))

    def always_writing(now: Any) -> Any:
        player.scene.put(next(number), "one more", ago=600)
        return player.scene.store.open(now)

    player.scene.open_reader = always_writing
    held = player.complete()
    assert (ExitCode.NO_GO, "closing") == (held.exit_code, held.state.phase)
    assert "still written to" in gate(held, "reconciled").hint
    player.scene.open_reader = None
    assert "complete" == player.complete().state.phase


def test_another_cutover_begins_anew_after_an_abort(player: Player) -> None:
    player.made_ready()
    player.shift(100)
    player.abort()
    routing = read_routing(player.scene.state / ROUTING)
    assert routing is not None
    assert ("mem0", "mem0") == (routing.phase, routing.route(user_id=player.scene.user))
    player.scene.time.pass_(1)
    player.start()
    assert {"base", "reconciled", "lag", "verdict"} <= {each.name for each in player.check().gates if not each.passed}


def test_a_round_under_way_is_waited_for_and_named(player: Player) -> None:
    player.made_ready()

    async def busy() -> None:
        async with round_lock(player.scene.state, sleep=player.scene.time.sleep, patience_s=0):
            await player.cutover().shift(player.scene.api, 50)

    with pytest.raises(LedgerLocked, match=f"process {os.getpid()}"):
        asyncio.run(busy())
    assert "started" == read_journal(player.scene.state).state.phase


USERS = tuple(f"user{number}" for number in range(40))


@pytest.fixture
def readers(player: Player) -> Iterator[list[tuple[float, int]]]:
    """Four readers that ask all the time, and how many users they were to read from Spectron, when."""
    player.made_ready()
    player.shift(50)
    seen: list[tuple[float, int]] = []
    stop = threading.Event()

    def read() -> None:
        reader = RoutingReader(player.scene.state, now=lambda: player.scene.time.moment.timestamp())
        while not stop.is_set():
            routing, now = reader.current(), player.scene.time.moment.timestamp()
            seen.append((time.monotonic(), sum(routing.route(user_id=each, now=now) == "spectron" for each in USERS)))
            stop.wait(0.01)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield seen
    stop.set()
    for thread in threads:
        thread.join()


def test_a_revert_at_50_percent_reaches_readers_on_this_host_within_a_second(
    player: Player, readers: list[tuple[float, int]]
) -> None:
    wait_until(lambda: len(readers) >= 40)
    assert 10 < readers[-1][1] < 30
    began = time.monotonic()
    player.revert()
    wait_until(lambda: readers[-1][0] >= began + 1.5)
    late = max((moment - began for moment, count in readers if count and moment > began), default=0.0)
    print(f"{late:.3f} s until the last read by the old routing")
    assert late < 1.0
    assert 0 == readers[-1][1]


def test_the_privacy_report_names_what_is_left_behind_and_what_can_be_erased_exactly(player: Player) -> None:
    scene = player.scene
    lone = scene.store.put(50, "gone with its scope", f"{scene.user}gone", scene.time.moment - timedelta(hours=1))
    changed = scene.put(51, "an old text", ago=3000)
    player.made_ready()
    scene.store.drop(50)
    scene.store.drop(1)
    scene.put(51, "a new text", ago=3000, edited=scene.time.moment - timedelta(seconds=100))
    player.shift(5)
    stand = player.check()
    assert stand.privacy is not None
    assert (2, 1, 1) == (stand.privacy.deleted, stand.privacy.replaced, stand.privacy.exact)
    path = Path(stand.privacy.path)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    rows = {row["id"]: row for row in json.loads(path.read_text())["memories"]}
    assert ("deleted in Mem0", True) == (rows[lone]["why"], rows[lone]["exact"])
    assert ("replaced by a newer text", False) == (rows[changed]["why"], rows[changed]["exact"])
    assert "gone with" not in path.read_text()


def test_what_mem0_no_longer_shows_is_in_the_privacy_report_too(scene: Scene) -> None:
    mem0_id = scene.put(1, "for a while only", expiration_date="2026-05-05")
    scene.round()
    scene.time.pass_(3 * 86400)
    scene.round()
    told = write_privacy_report(scene.state, now=format_time(scene.time.now()))
    assert told is not None
    assert (1, 0, 1) == (told.deleted, told.replaced, told.exact)
    [row] = json.loads(Path(told.path).read_text())["memories"]
    assert (mem0_id, "expired in Mem0") == (row["id"], row["why"])


def test_after_complete_a_replay_supersedes_nothing(player: Player) -> None:
    scene = player.scene
    player.made_ready()
    player.shift(100)
    player.complete()
    scene.put(90, "written to Mem0 all the same", ago=0)
    done = replay(scene.server, scene.state, [scene.export()])
    assert (1, 1) == (done.written, done.late)


def test_a_migration_in_shards_is_followed_and_cut_over_as_well(player: Player) -> None:
    scene = player.scene
    dump = scene.export()
    for number in range(2):
        options = ReplayOptions(shard=Shard(number, 2))
        assert ExitCode.DONE == replay(scene.server, scene.state, [dump], options=options).exit_code
    player.start()
    scene.put(90, "after the shards", ago=600)
    scene.store.drop(1)
    done = scene.follow(max_seconds=12)
    assert (ExitCode.DONE, 1, 1) == (done.exit_code, done.written, done.deleted)
    found = last_reconciled(scene.state)
    assert found is not None
    assert (True, 6) == (found.agree, found.memories)
    assert {"verdict", "leaks"} == {each.name for each in player.check().gates if not each.passed}
    ledger = Shard(1, 2).folder(scene.state) / "ledger.db"
    ledger.rename(ledger.with_name("away"))
    assert "incomplete" == gate(player.check(), "base").outcome


def test_a_revert_by_the_command_line_needs_nothing_but_the_state_directory(player: Player) -> None:
    put_into(player, "shift")
    folder = player.scene.folder
    (folder / "spectron-migrate.yaml").write_text("this: is [no settings file")
    words = [sys.executable, "-m", "spectron_migrate", "cutover", "revert", "--json", "--reason", "panic"]
    broken = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert ExitCode.INPUT == broken.returncode
    done = subprocess.run([*words, "--state", "state"], cwd=folder, capture_output=True, text=True, check=False)
    assert (0, "started") == (done.returncode, json.loads(done.stdout)["phase"])
    last = read_journal(player.scene.state).steps[-1]
    assert ("revert", "panic") == (last.step, last.why)
    assert getpass.getuser() in last.who
