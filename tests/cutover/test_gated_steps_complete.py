"""Complete makes Spectron the only store, once nothing that Mem0 holds would be lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from spectron_migrate.cutover import gated_steps
from spectron_migrate.errors import ExitCode, LedgerLocked, NotConfirmed, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.state.journal import read_journal
from tests.cutover.support import Operator, gate
from tests.support.spectron import replay


def test_complete_is_not_legal_before_all_users_are_read_from_spectron(operator: Operator) -> None:
    operator.record("start")
    operator.record("shift", percent=50)
    with pytest.raises(NotLegal, match="while 50 % of users are read"):
        operator.complete()
    operator.record("shift", percent=100)
    operator.record("pin", mem0=("alice",))
    with pytest.raises(NotLegal, match="1 user pinned to Mem0"):
        operator.complete()


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
