"""Once, in order, in the right scope, whatever fails on the way: judged on the server's own tables."""

from __future__ import annotations

import os
import random
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.support.engines import named
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, replay, turns_of, write_raw
from tests.support.warm import start_command

pytestmark = pytest.mark.slow
ANYTHING: tuple[Fault, ...] = (
    "cut_before",
    "cut_after",
    "half_answer",
    "garbage",
    "500_before",
    "500_after",
    "429",
    "429_bare",
    "503",
)


def test_memories_arrive_once_oldest_first_whatever_order_the_dump_has(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user) for number in range(40)]
    random.Random(1).shuffle(rows)
    dump = write_raw(tmp_path / "all.json", rows)
    summary = replay(spectron, tmp_path / "state", [dump])
    expected = [f"{user} remembers thing number {number}" for number in range(40)]
    assert ExitCode.DONE == summary.exit_code
    assert 40 == summary.written
    assert expected == [turn.content for turn in turns_of(spectron, user)]
    assert {(f"user/{user}/",)} == {turn.scopes for turn in turns_of(spectron, user)}


def test_a_second_run_sends_nothing(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        again = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert {"GET"} == {seen.method for seen in proxy.seen}
    assert 0 == again.written
    assert 12 == again.already
    assert ExitCode.DONE == again.exit_code
    assert 12 == len(turns_of(spectron, user))


def test_identical_texts_are_as_many_turns_as_they_are_memories(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, "the same words") for number in range(15)])

    def every_third(seen: Seen) -> Fault:
        return "cut_after" if seen.writes_fact and seen.number % 3 == 0 else "none"

    with misbehaving(spectron.base_url, every_third) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert "cut_after" in proxy.faults
    assert 15 == summary.written
    assert ExitCode.DONE == summary.exit_code
    assert 15 == len(turns_of(spectron, user))


@pytest.mark.parametrize("fault", ANYTHING)
def test_every_fault_of_a_write_ends_in_exactly_one_turn(
    spectron: RunningServer, user: str, tmp_path: Path, fault: Fault
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(10)])
    writes = 0

    def second_write(seen: Seen) -> Fault:
        nonlocal writes
        writes += seen.writes_fact
        return fault if seen.writes_fact and writes == 2 else "none"

    with misbehaving(spectron.base_url, second_write) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert 1 == proxy.faults.count(fault)
    assert ExitCode.DONE == summary.exit_code
    assert 10 == summary.written
    assert 0 == summary.in_doubt
    expected = [f"{user} remembers thing number {number}" for number in range(10)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


@pytest.mark.parametrize("seed", range(6))
def test_faults_everywhere_and_runs_until_done_still_mean_exactly_once_in_order(
    spectron: RunningServer, user: str, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    users = [f"{user}{letter}" for letter in "abc"]
    rows = [memory(number, one, run_id=f"run{number % 2}") for one in users for number in range(15)]
    dump = write_raw(tmp_path / "all.json", rows)

    def anything(seen: Seen) -> Fault:
        return dice.choice(ANYTHING) if dice.random() < 0.25 else "none"

    with misbehaving(spectron.base_url, anything) as proxy:
        for _ in range(30):
            try:
                summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
            except Unreachable:
                continue  # a read that had no answer in all its tries ends a run; the next goes on
            if summary.exit_code == ExitCode.DONE:
                break
    assert ExitCode.DONE == summary.exit_code
    assert 45 == summary.written + summary.already
    for one in users:
        expected = [f"{one} remembers thing number {number}" for number in range(15)]
        assert expected == [turn.content for turn in turns_of(spectron, one)]


@pytest.mark.parametrize("point", range(6))
def test_kill_9_at_any_point_and_another_run_end_the_same(
    spectron: RunningServer, user: str, tmp_path: Path, point: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(60)])
    state = tmp_path / "state"
    words = ["replay", "--dump", str(dump), "--state", named(state), "--json"]
    environment = {
        **os.environ,
        "SPECTRON_CONTEXT": spectron.context,
        "SPECTRON_API_KEY": spectron.api_key,
    }
    running: list[ForkServerProcess] = []

    def kill_at(seen: Seen) -> Fault:
        if seen.writes_fact and seen.number >= 6 + 9 * point and running:
            running.pop().kill()
            return "cut_after" if point % 2 else "cut_before"
        return "none"

    with misbehaving(spectron.base_url, kill_at) as proxy:
        environment["SPECTRON_ENDPOINT"] = proxy.base_url
        first = start_command(tmp_path, *words, environment=environment)
        running.append(first)
        first.join(60)
        assert -signal.SIGKILL == first.exitcode
        second = replay(spectron, state, [dump], endpoint=proxy.base_url)
    assert ExitCode.DONE == second.exit_code
    expected = [f"{user} remembers thing number {number}" for number in range(60)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


def test_nothing_leaves_before_its_intent_and_its_session_are_on_disk(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(10)])
    state = tmp_path / "state"
    unprepared: list[str] = []

    def look_first(seen: Seen) -> Fault:
        if seen.method == "POST" and seen.path.endswith("/facts"):
            with Ledger.open_for_reading(state) as ledger:
                row = ledger.db.execute(
                    "SELECT body, server_id FROM fact JOIN session ON session.id = fact.session"
                    " JOIN request ON request.id = fact.id WHERE request.key = ?",
                    (seen.headers["idempotency-key"],),
                ).fetchone()
            if row is None or row["body"].encode() != seen.body or row["server_id"].encode() not in seen.body:
                unprepared.append(seen.body.decode())
        return "none"

    with misbehaving(spectron.base_url, look_first) as proxy:
        replay(spectron, state, [dump], endpoint=proxy.base_url)
        sent = [seen for seen in proxy.seen if seen.writes_fact]
    assert [] == unprepared
    assert 10 == len(sent)


def test_resends_of_a_key_are_equal_to_the_byte(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])

    def twice(seen: Seen) -> Fault:
        return "cut_after" if seen.writes_fact and seen.number % 2 else "none"

    with misbehaving(spectron.base_url, twice) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        bodies: dict[str, set[bytes]] = {}
        for seen in proxy.seen:
            if seen.writes_fact:
                bodies.setdefault(seen.headers["idempotency-key"], set()).add(seen.body)
    assert 12 == len(bodies)
    assert {1} == {len(each) for each in bodies.values()}


def test_no_session_is_deleted_no_scope_is_empty_and_every_fact_names_its_session(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(5)])
    with misbehaving(spectron.base_url) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert {"GET", "POST"} == {seen.method for seen in proxy.seen}
        for seen in proxy.seen:
            if seen.writes_fact:
                assert b'"session_id":"' in seen.body
                assert f'"scopes":[["user/{user}"]]'.encode() in seen.body
                assert b'"memory_category":"knowledge"' in seen.body
                assert b'"observed_at":"2025-01-01T0' in seen.body
