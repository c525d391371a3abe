"""Shift moves reads to Spectron only while every gate passes, and back to Mem0 always."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from spectron_migrate.dump import read_manifest
from spectron_migrate.errors import ExitCode, InputError, KeyRefused, LedgerLocked
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.ledger_access import round_lock
from spectron_migrate.records import Memory, Skipped, format_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.following import COMPARES_BESIDE, FOLLOW_FILE, FOLLOW_LOCK
from spectron_migrate.state.journal import CaughtUp, publish_routing, read_journal
from spectron_migrate.state.store import store_at, write_object
from tests.cutover.support import Operator, failing

pytestmark = pytest.mark.slow


def test_nothing_is_shifted_while_a_gate_fails(operator: Operator) -> None:
    operator.start()
    result = operator.shift(10)
    assert ExitCode.NO_GO == result.exit_code
    assert {"verdict", "leaks"} == failing(result)
    assert "started" == operator.state.phase


def test_a_shift_is_recorded_with_the_gates_that_passed(operator: Operator) -> None:
    operator.make_ready()
    result = operator.shift(50)
    assert ExitCode.DONE == result.exit_code
    assert result.ready
    assert "shift" == operator.state.phase
    assert 50 == operator.state.percent
    last = read_journal(operator.scene.state).steps[-1]
    assert "shift" == last.step
    assert [each.name for each in result.gates] == [each["name"] for each in last.gates]


def test_after_a_shift_of_all_users_the_soak_has_begun(operator: Operator) -> None:
    operator.make_ready()
    shifted = operator.shift(100, soak_s=3600.0)
    soak = next(gate for gate in shifted.gates if gate.name == "soak")
    assert "all users have been read from Spectron since" in soak.hint
    assert not shifted.ready


def test_reads_go_back_to_mem0_without_gates_and_without_spectron(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(50)
    operator.scene.server.kill()
    try:
        assert 10 == operator.shift(10).state.percent
        assert 0 == operator.shift(0).state.percent
        assert "started" == operator.revert().state.phase
    finally:
        operator.scene.server.restart()


def test_single_users_are_shifted_to_spectron_and_back(operator: Operator) -> None:
    operator.make_ready()
    user, other = operator.scene.user, f"{operator.scene.user}b"
    now = operator.scene.time.moment.timestamp()
    operator.shift(100, user)
    assert "spectron" == operator.routing.route(user_id=user, now=now)
    assert "mem0" == operator.routing.route(user_id=other, now=now)
    operator.shift(100)
    operator.shift(0, user)
    assert "mem0" == operator.routing.route(user_id=user, now=now)
    assert "spectron" == operator.routing.route(user_id=other, now=now)


def test_a_revert_during_a_shift_is_not_overruled_by_it(operator: Operator) -> None:
    operator.make_ready()
    operator.shift(5)

    def revert_while_mem0_is_read(now: Any) -> Any:
        if operator.state.phase == "shift":
            operator.revert()
        return operator.scene.store.open(now)

    operator.scene.open_reader = revert_while_mem0_is_read
    with pytest.raises(InputError, match="another step"):
        operator.shift(50)
    assert "started" == operator.state.phase
    assert 0 == operator.state.percent


def test_a_shift_first_catches_up_with_writes_that_bypassed_everything(operator: Operator) -> None:
    operator.make_ready()
    operator.scene.put(90, "written by a script that nobody mentioned", ago=600)
    operator.scene.store.drop(1)
    result = operator.shift(50)
    assert ExitCode.DONE == result.exit_code
    assert result.reconciled is not None
    assert result.reconciled.agree
    assert 6 == result.reconciled.memories
    assert "written by a script that nobody mentioned" in operator.scene.texts


def test_a_shift_passes_although_reading_all_of_mem0_takes_longer_than_max_lag(operator: Operator) -> None:
    operator.make_ready()
    scene = operator.scene

    def open_slowly(now: datetime) -> Reader:
        reader = scene.store.open(now)
        rows = reader.rows

        def slow_rows() -> Iterator[Memory | Skipped]:
            scene.time.pass_(80)
            yield from rows()

        reader.rows = slow_rows  # type: ignore[method-assign]
        return reader

    scene.open_reader = open_slowly
    result = operator.shift(50)
    assert set() == failing(result)
    assert 50 == result.state.percent


def test_a_shift_names_the_process_whose_round_it_waited_for(operator: Operator) -> None:
    operator.make_ready()

    async def shift_during_a_round() -> None:
        async with round_lock(operator.scene.state, sleep=operator.scene.time.sleep, patience_s=0):
            await operator.cutover().shift(operator.scene.api, 50)

    with pytest.raises(LedgerLocked, match=rf"process (.*/)?{os.getpid()}\b"):
        asyncio.run(shift_during_a_round())
    assert "started" == operator.state.phase


def test_a_shift_holds_up_no_round_of_a_follower_that_reads_only_what_changed(operator: Operator) -> None:
    operator.make_ready()
    scene, rounds = operator.scene, operator.scene.rounds()
    scene.round(rounds)
    before = read_manifest(scene.settings.dump)
    write_object(scene.state, FOLLOW_FILE, {COMPARES_BESIDE: True})

    async def sleep(seconds: float) -> None:
        """The follower goes on."""
        scene.time.pass_(seconds)
        async with scene.api() as api, round_lock(scene.state, patience_s=0):
            await rounds.round(api)

    lock = store_at(scene.state).try_lock(FOLLOW_LOCK)
    assert lock is not None
    with lock:
        result = operator.shift(50, sleep=sleep)
    assert ExitCode.DONE == result.exit_code
    assert 50 == operator.state.percent
    assert result.reconciled is not None
    assert result.reconciled.agree
    assert before == read_manifest(scene.settings.dump)


def test_a_shift_without_a_key_ends_before_all_of_mem0_is_read(operator: Operator) -> None:
    operator.make_ready()
    scene = operator.scene
    write_object(scene.state, FOLLOW_FILE, {COMPARES_BESIDE: True})

    def without_key() -> SpectronApi:
        raise KeyRefused("there is no API key")

    before = scene.store.readings
    lock = store_at(scene.state).try_lock(FOLLOW_LOCK)
    assert lock is not None
    with lock, pytest.raises(KeyRefused):
        asyncio.run(operator.cutover().shift(without_key, 50))
    assert before == scene.store.readings


def test_a_shift_beside_a_follower_that_missed_something_reads_it_in_rounds_of_its_own(operator: Operator) -> None:
    operator.make_ready()
    scene = operator.scene
    rounds = scene.rounds()
    scene.round(rounds)
    write_object(scene.state, FOLLOW_FILE, {COMPARES_BESIDE: True})
    scene.put(50, "a text that the follower never sees", ago=3000)

    async def sleep(seconds: float) -> None:
        scene.time.pass_(seconds)
        state = scene.state
        publish_routing(state, CaughtUp(format_time(scene.time.now()), 1e12, frozenset()), now="")

    lock = store_at(scene.state).try_lock(FOLLOW_LOCK)
    assert lock is not None
    with lock:
        result = operator.shift(50, sleep=sleep)
    assert result.reconciled is not None
    assert result.reconciled.agree
    assert 7 == result.reconciled.memories
    assert "a text that the follower never sees" in scene.texts
