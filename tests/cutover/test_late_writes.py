"""After complete, what is still written to Mem0 is found, named and brought over once, superseding nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from spectron_migrate.cutover.status import cutover_status
from spectron_migrate.errors import ExitCode, Incomplete, InputError, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.state.late_writes import last_late_writes
from tests.cutover.support import Operator
from tests.mem0.qdrant_points import uuid
from tests.support.spectron import replay

pytestmark = pytest.mark.slow


@pytest.fixture
def completed(operator: Operator) -> Operator:
    """A cutover that is complete and sealed."""
    operator.make_ready()
    operator.shift(100)
    assert operator.complete().state.sealed
    return operator


def status(operator: Operator) -> dict[str, Any]:
    found = cutover_status(operator.scene.state, now=operator.scene.time.now())
    assert found is not None
    return found


def test_a_check_after_complete_reads_mem0_again_and_finds_nothing(completed: Operator) -> None:
    checked = completed.check()
    assert ExitCode.DONE == checked.exit_code
    assert checked.late_writes is not None
    assert 6 == checked.late_writes.memories
    assert 0 == checked.late_writes.count
    assert status(completed)["next"] is None


def test_what_is_newer_in_mem0_is_named_and_brought_once_and_then_the_alarm_is_over(completed: Operator) -> None:
    added = completed.scene.put(90, "written by a pod that nobody stopped", ago=0)
    changed = completed.scene.put(1, "thing number 1 was replaced", ago=0)
    alarm = completed.check()
    assert ExitCode.NO_GO == alarm.exit_code
    assert alarm.late_writes is not None
    assert 2 == alarm.late_writes.count
    assert {added, changed} == set(alarm.late_writes.ids)
    assert added in alarm.note
    assert "written by a pod that nobody stopped" not in completed.scene.texts, "a check sends nothing"
    assert "spectron-migrate replay --late-writers" == status(completed)["next"]
    assert 2 == status(completed)["late_writes"]["count"]

    done, left = completed.bring_late_writes()
    assert 2 == done.written
    assert 2 == done.late
    assert 0 == left.count
    with Ledger.open_for_reading(completed.scene.state) as ledger:
        newest = ledger.db.execute("SELECT infer FROM fact ORDER BY id DESC LIMIT 2").fetchall()
    assert ["none", "none"] == [row["infer"] for row in newest]
    assert ExitCode.DONE == completed.check().exit_code
    assert status(completed)["next"] is None
    again, _ = completed.bring_late_writes()
    assert 0 == again.written


def test_deletions_in_mem0_after_complete_hide_nothing_in_spectron(completed: Operator) -> None:
    """An operator empties Mem0 when it is no longer needed; by then Spectron is the only store."""
    for number in range(5):
        completed.scene.store.drop(number)
    checked = completed.check()
    assert ExitCode.DONE == checked.exit_code
    assert checked.late_writes is not None
    assert 5 == checked.late_writes.gone
    completed.scene.put(90, "a late one", ago=0)
    done, left = completed.bring_late_writes()
    assert 1 == done.written
    assert 5 == left.gone
    with Ledger.open_for_reading(completed.scene.state) as ledger:
        assert [] == ledger.db.execute("SELECT 1 FROM memory WHERE tombstoned_at IS NOT NULL").fetchall()


def test_a_plain_replay_after_complete_hides_nothing_either(completed: Operator) -> None:
    for number in range(5):
        completed.scene.store.drop(number)
    replay(completed.scene.server, completed.scene.state, [completed.scene.export()])
    with Ledger.open_for_reading(completed.scene.state) as ledger:
        assert [] == ledger.db.execute("SELECT 1 FROM memory WHERE tombstoned_at IS NOT NULL").fetchall()


def test_late_writes_are_brought_exactly_once_whatever_a_late_writer_does(completed: Operator) -> None:
    dice = random.Random(7)
    scene = completed.scene
    for turn in range(12):
        for _ in range(dice.randrange(4)):
            number = dice.choice((1, 3, 5, 7, 9, 11, 13))
            scene.put(number, f"text {turn}.{dice.randrange(1000)} of {number}", ago=dice.choice((0, 5, 4000)))
        scene.time.pass_(dice.choice((0.1, 40, 4000)))
        if dice.random() < 0.5:
            completed.check()
        _, left = completed.bring_late_writes()
        assert 0 == left.count
    mine = [row["data"] for row in scene.store.rows.values() if row["user_id"] == scene.user]
    assert dict.fromkeys(mine, 1) == {text: scene.texts.count(text) for text in mine}
    assert len(set(scene.texts)) == len(scene.texts), "none of the texts in between was written twice"


def test_a_mem0_that_cannot_be_read_in_full_is_an_error_and_keeps_the_last_alarm(
    completed: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed.scene.put(90, "a late one", ago=0)
    assert ExitCode.NO_GO == completed.check().exit_code

    def broken(now: Any) -> Any:
        raise Incomplete("Mem0 is away")

    completed.scene.open_reader = broken
    with pytest.raises(Incomplete):
        completed.check()
    late = last_late_writes(completed.scene.state)
    assert late is not None
    assert (uuid(90),) == late.ids


def test_without_a_mem0_in_the_settings_the_check_says_that_it_read_nothing(completed: Operator) -> None:
    cutover = completed.cutover()

    def no_mem0() -> Any:
        raise InputError("no Mem0 is named that could be followed")

    cutover._make_settings = no_mem0
    checked = asyncio.run(cutover.check(None))
    assert ExitCode.DONE == checked.exit_code
    assert "Mem0 was not read again" in checked.note


def test_late_writers_are_for_after_complete(operator: Operator) -> None:
    operator.make_ready()
    with pytest.raises(NotLegal) as refused:
        operator.bring_late_writes()
    assert "spectron-migrate replay --follow" == refused.value.hint
