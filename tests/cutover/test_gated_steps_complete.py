"""Complete makes Spectron the only store, once nothing that Mem0 holds would be lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from spectron_migrate.cutover import gated_steps
from spectron_migrate.errors import ExitCode, InputError, LedgerLocked, NotConfirmed, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.reconcile import QUIET_PAUSE_S
from spectron_migrate.records import format_time
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.routing import read_routing
from tests.cutover.support import Operator, failing, gate
from tests.support.spectron import replay

pytestmark = pytest.mark.slow


def test_complete_is_not_legal_before_all_users_are_read_from_spectron(operator: Operator) -> None:
    operator.record("start")
    operator.record("shift", percent=50)
    with pytest.raises(NotLegal, match="50 % of users are read"):
        operator.complete()
    operator.record("shift", percent=100)
    operator.record("pin", mem0=("alice",))
    with pytest.raises(NotLegal, match="1 user pinned to Mem0: alice") as refused:
        operator.complete()
    assert "spectron-migrate cutover shift 100 --user alice" == refused.value.hint
    with pytest.raises(InputError, match="nothing to accept yet") as waits:
        operator.accept("soak")
    assert "alice is pinned to Mem0: spectron-migrate cutover shift 100 --user alice" in str(waits.value.hint)


def test_complete_is_refused_until_an_application_is_attached_and_everybody_was_read_for_long_enough(
    operator: Operator,
) -> None:
    soak_s = 3600.0
    operator.make_ready(attached=False)
    operator.shift(50)
    assert {"application", "calls"} == failing(operator.shift(100, soak_s=soak_s))
    operator.accept("application", soak_s=soak_s)
    operator.accept("calls", soak_s=soak_s)
    assert ExitCode.DONE == operator.shift(100, soak_s=soak_s).exit_code
    operator.revert()
    operator.scene.time.pass_(60)
    operator.beat()
    assert ExitCode.DONE == operator.shift(100, soak_s=soak_s).exit_code

    refused = operator.complete(soak_s=soak_s)
    assert ExitCode.NO_GO == refused.exit_code
    assert {"soak"} == failing(refused)
    assert "shift" == operator.state.phase, "nothing was changed"
    for _ in range(3600 // 30):
        operator.scene.time.pass_(30)
        operator.beat()
    operator.scene.follow(max_seconds=12)
    assert operator.check(soak_s=soak_s).ready
    assert "complete" == operator.complete(soak_s=soak_s).state.phase


def test_with_nobody_attached_complete_names_the_application_and_passes_after_an_hour_of_its_reads(
    operator: Operator,
) -> None:
    """A walk with a moved clock, in which nothing is accepted in place of an application."""
    hour_s = 3600.0
    operator.make_ready(attached=False)
    operator.record("shift", percent=100)
    refused = operator.complete(soak_s=hour_s)
    assert ExitCode.NO_GO == refused.exit_code
    assert {"application", "calls", "soak"} == failing(refused)
    assert "no application reads" in gate(refused, "application").hint
    assert "shift" == operator.state.phase
    for _ in range(round(hour_s / 30)):
        operator.scene.time.pass_(30)
        operator.beat()
    operator.scene.follow(max_seconds=12)
    assert "complete" == operator.complete(soak_s=hour_s).state.phase


def test_complete_is_refused_where_the_application_no_longer_reads(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.scene.time.pass_(3700)
    operator.scene.follow(max_seconds=12)
    refused = operator.complete()
    assert {"application"} == failing(refused)
    assert "web-1" in str(gate(refused, "application").value)
    assert "shift" == operator.state.phase


def test_complete_names_a_process_that_fell_silent_until_it_is_accepted(operator: Operator) -> None:
    operator.make_ready()
    operator.beat("web-2", pid=41)
    operator.shift(100)
    operator.scene.time.pass_(61)
    refused = operator.complete()
    assert ExitCode.NO_GO == refused.exit_code
    assert "web-2/41" in gate(refused, "processes").hint
    operator.accept("processes", "web-2/41")
    assert "complete" == operator.complete().state.phase


def test_a_process_that_says_that_it_ends_is_not_missed(operator: Operator) -> None:
    operator.make_ready()
    operator.beat("web-2", pid=41)
    operator.shift(100)
    operator.beat("web-2", pid=41, ended=format_time(operator.scene.time.now()))
    operator.scene.time.pass_(61)
    assert "complete" == operator.complete().state.phase


def test_complete_publishes_which_mapping_is_in_force(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.complete()
    routing = read_routing(operator.scene.state)
    assert routing is not None
    in_force = load_mapping(None)
    assert in_force.digest == routing.mapping_digest
    assert in_force.rules_digest == routing.rules_digest


def test_complete_says_that_nobody_soaked(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.complete()
    assert any("cutover.soak is 0s" in each for each in operator.scene.reporter.warnings)


def test_complete_must_be_confirmed_for_the_right_migration(operator: Operator) -> None:
    operator.record("start", "shift")
    with pytest.raises(NotConfirmed) as unconfirmed:
        operator.complete(yes=False)
    assert ExitCode.NOT_CONFIRMED == unconfirmed.value.exit_code
    with pytest.raises(NotConfirmed):
        operator.complete("another")
    assert "shift" == operator.state.phase


def test_complete_waits_for_young_memories_and_carries_over_those_written_while_applications_switched(
    operator: Operator,
) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.scene.put(90, "young", ago=1)
    is_written = False

    async def sleep(seconds: float) -> None:
        nonlocal is_written
        if operator.state.phase == "complete" and not is_written:
            is_written = True
            operator.scene.put(91, "written after the switch", ago=0)
        await operator.scene.time.sleep(seconds)

    result = operator.complete(sleep=sleep)
    assert ExitCode.DONE == result.exit_code
    assert "complete" == result.state.phase
    assert result.state.sealed
    assert ["young", "written after the switch"] == operator.scene.texts[-2:]
    assert ["closing", "complete", "sealed"] == [each.step for each in read_journal(operator.scene.state).steps[-3:]]
    with Ledger.open_for_reading(operator.scene.state) as ledger:
        rows = ledger.db.execute("SELECT infer FROM fact ORDER BY id DESC LIMIT 2").fetchall()
    assert ["none", "full"] == [row["infer"] for row in rows], "what is carried over supersedes nothing"


def test_complete_and_check_may_be_repeated(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    operator.complete()
    assert "the cutover has been complete since" in operator.complete().note
    checked = operator.check()
    assert ExitCode.DONE == checked.exit_code
    assert () == checked.gates


def test_complete_fails_while_mem0_is_written_to_and_can_be_run_again(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(100)
    number = iter(range(100, 1000))

    def write_before_each_scan(now: Any) -> Any:
        operator.scene.put(next(number), "one more", ago=600)
        return operator.scene.store.open(now)

    operator.scene.open_reader = write_before_each_scan
    result = operator.complete()
    assert ExitCode.NO_GO == result.exit_code
    assert "closing" == result.state.phase
    assert "still written to" in gate(result, "reconciled").hint
    operator.scene.open_reader = None
    assert "complete" == operator.complete().state.phase


@dataclass
class Writer:
    """An application that goes on writing to Mem0 at random moments, while a step of the cutover sleeps."""

    operator: Operator
    dice: random.Random
    longest_pause_s: float
    written: int = 0
    pause_s: float = 0.0

    async def sleep(self, seconds: float) -> None:
        """Let the time pass and write whenever a pause is over."""
        while seconds > 0:
            if self.pause_s <= 0:
                self.pause_s = self.dice.uniform(0.1, self.longest_pause_s)
                self.written += 1
                self.operator.scene.put(1000 + self.written, f"written as number {self.written}", ago=0)
            step = min(seconds, self.pause_s)
            seconds, self.pause_s = seconds - step, self.pause_s - step
            await self.operator.scene.time.sleep(step)


@pytest.mark.parametrize("seed", range(6))
def test_without_a_settle_time_complete_still_notices_that_mem0_is_written_to(operator: Operator, seed: int) -> None:
    operator.scene.settle_s = 0.0
    operator.make_ready()
    operator.shift(100)
    writer = Writer(operator, random.Random(seed), longest_pause_s=QUIET_PAUSE_S - 0.1)
    refused = operator.complete(sleep=writer.sleep)
    assert writer.written > 2
    assert ExitCode.NO_GO == refused.exit_code
    assert "closing" == refused.state.phase
    assert "complete" == operator.complete().state.phase
    assert sorted(f"written as number {each + 1}" for each in range(writer.written)) == sorted(
        text for text in operator.scene.texts if text.startswith("written as")
    )


@dataclass
class WriterInReadings:
    """An application that writes to Mem0 only while it is being read: after the row that is read last."""

    operator: Operator
    most: int
    written: int = 0

    def open(self, now: datetime) -> Any:
        reader = self.operator.scene.store.open(now)
        rows = reader.rows

        def rows_and_then_a_write() -> Iterator[Any]:
            yield from rows()
            if self.written < self.most:
                self.written += 1
                self.operator.scene.put(1000 + self.written, f"written as number {self.written}", ago=0)

        reader.rows = rows_and_then_a_write  # type: ignore[method-assign]
        return reader


def test_what_is_written_only_while_mem0_is_read_is_seen_before_mem0_is_left(operator: Operator) -> None:
    operator.scene.settle_s = 0.0
    operator.make_ready()
    operator.shift(100)
    writer = WriterInReadings(operator, most=1000)
    operator.scene.open_reader = writer.open
    assert "complete" != operator.complete().state.phase
    writer.most = writer.written
    assert "complete" == operator.complete().state.phase
    assert sorted(f"written as number {each + 1}" for each in range(writer.written)) == sorted(
        text for text in operator.scene.texts if text.startswith("written as")
    )


def test_complete_does_not_switch_while_a_replay_that_may_supersede_is_running(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that began after the last scan would go on with `infer: full` after applications write to Spectron."""
    operator.make_ready()
    operator.shift(100)
    require_quiet, running = gated_steps._require_quiet, []

    def begin_a_replay(gates: Any, reconciled: Any) -> Any:
        with suppress(LedgerLocked):
            running.append(Ledger.open_for_writing(operator.scene.state))
        return require_quiet(gates, reconciled)

    monkeypatch.setattr(gated_steps, "_require_quiet", begin_a_replay)
    with suppress(LedgerLocked):
        operator.complete()
    for ledger in running:
        ledger.close()
    assert not running or "complete" != operator.state.phase


def test_a_replay_after_complete_supersedes_nothing(operator: Operator) -> None:
    scene = operator.scene
    operator.make_ready()
    operator.shift(100)
    operator.complete()
    scene.put(90, "written to Mem0 all the same", ago=0)
    done = replay(scene.server, scene.state, [scene.export()])
    assert 1 == done.written
    assert 1 == done.late
