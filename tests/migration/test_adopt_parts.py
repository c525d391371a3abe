"""`replay --adopt` with a batch in doubt, and within a limit of time."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.errors import ExitCode, WrongLedger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory
from tests.support.copies import copy_state, lose_state
from tests.support.here import server_here
from tests.support.oracle import ledger_facts
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import BATCH, TODAY, complete_scan, mapping_file, replay_in_no_time
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

ADOPT = ReplayOptions(adopt=True)
A_DAY_S = 25 * 3600.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of a generation whose hits name their session, and whose clock may be moved."""
    with server_here(tmp_path / "data", context="tests", api="0.3.0", fault_settings={}) as server:
        yield server


def rows(users: list[str], each: int) -> list[Memory]:
    return [
        Memory(
            id=f"{user}-{number:03d}",
            memory="Likes tea" if number % 5 == 0 else f"{user} keeps fact number {number}",
            user_id=user,
            created_at=f"2025-03-{1 + number:02d}T10:00:00.000000Z",
            text_at=f"2025-03-{1 + number:02d}T10:00:00.000000Z",
            text_at_source="created_at",
        )
        for user in users
        for number in range(each)
    ]


def assert_each_once(server: RunningServer, expected: list[Memory]) -> None:
    for user in {one.user_id for one in expected}:
        texts = Counter(one.memory for one in expected if one.user_id == user)
        assert texts == Counter(turn.content for turn in turns_of(server, str(user)))


@pytest.fixture
def shell(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in a directory of their own, with the server's variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", server.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", server.context)
    monkeypatch.setenv("SPECTRON_API_KEY", server.api_key)


# -- a batch in doubt -----------------------------------------------------------------------------------------

BATCH_FAULTS = {"never arrived": "cut_before", "half of it arrived": "cut_in_batch", "all of it arrived": "cut_after"}


@pytest.mark.parametrize("came", list(BATCH_FAULTS))
@pytest.mark.parametrize("day", [False, True], ids=["within a day", "later"])
@pytest.mark.parametrize("went_on", [False, True], ids=["nobody went on", "the original went on"])
def test_a_copy_with_a_batch_in_doubt_adopts_what_came_of_it(
    server: RunningServer, user: str, tmp_path: Path, came: str, day: bool, went_on: bool
) -> None:
    mapping = mapping_file(tmp_path, BATCH)
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(70)])
    batches = 0

    def choose(seen: Seen) -> Fault:
        nonlocal batches
        if not seen.path.endswith("/facts/batch"):
            return "none"
        batches += 1
        if batches == 1:
            return "none"
        if batches == 2:
            copy_state(tmp_path / "state", tmp_path / "copy")
            return BATCH_FAULTS[came]
        return "none" if went_on else "cut_before"

    with misbehaving(server.base_url, choose) as proxy:
        replay_in_no_time(server, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    if day:
        server.change_faults(ahead_s=A_DAY_S)
    assert 32 == sum(fact["state"] == "intended" for fact in ledger_facts(tmp_path / "copy"))

    if went_on:
        with pytest.raises(WrongLedger):
            replay_in_no_time(server, tmp_path / "copy", dump, mapping=mapping)
    for _ in range(2):
        done = replay_in_no_time(server, tmp_path / "copy", dump, mapping=mapping, options=ADOPT)

    assert ExitCode.DONE == done.exit_code
    assert {f"{user} remembers thing number {number}": 1 for number in range(70)} == Counter(
        turn.content for turn in turns_of(server, user)
    )


# -- a limit of time ------------------------------------------------------------------------------------------


def test_an_adoption_keeps_to_its_limit_of_time_and_goes_on_where_it_stopped(
    server: RunningServer, tmp_path: Path
) -> None:
    users = [f"user{number}" for number in range(12)]
    dump = complete_scan(tmp_path / "dump", rows(users, 12), TODAY)
    replay(server, tmp_path / "state", [dump])
    lose_state(tmp_path / "state")
    within = ReplayOptions(adopt=True, max_seconds=1.6, max_rps=10.0, max_in_flight=1)

    first = replay_in_no_time(server, tmp_path / "state", dump, options=within)

    assert first.adoption is not None
    assert not first.adoption.finished
    assert 0 < first.adoption.adopted < 144
    assert first.adoption.requests <= 18
    assert (ExitCode.LIMIT, 0, "the time limit was reached") == (
        first.exit_code,
        first.written,
        str(first.stopped)[:26],
    )
    with pytest.raises(WrongLedger, match="was begun and not finished"):
        replay(server, tmp_path / "state", [dump])

    later = [replay_in_no_time(server, tmp_path / "state", dump, options=within) for _ in range(3)]
    assert later[-1].adoption is not None
    assert later[-1].adoption.finished
    done = replay(server, tmp_path / "state", [dump])
    assert (ExitCode.DONE, 144, 0) == (done.exit_code, done.already, done.written)
    assert_each_once(server, rows(users, 12))


@pytest.mark.ledger_file  # it types commands, in a directory
def test_the_next_command_after_an_adoption_that_ran_out_of_time_adopts(
    server: RunningServer, shell: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete_scan(tmp_path / "dump", rows(["ann"], 6), TODAY)
    assert 0 == run(["replay", "-q"])
    shutil.rmtree(tmp_path / ".spectron-migrate")
    capsys.readouterr()

    assert ExitCode.LIMIT == run(["replay", "--adopt", "--max-seconds", "0.000001", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["adoption"]["finished"] is False
    assert said["next"].endswith("spectron-migrate replay --adopt"), said["next"]
    assert 0 == run(["replay", "--adopt", "--json"])
    assert json.loads(capsys.readouterr().out)["adoption"]["finished"] is True
    assert_each_once(server, rows(["ann"], 6))
