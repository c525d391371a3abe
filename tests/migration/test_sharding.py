"""Several processes replay one dump together: every memory once, every lane in its order, nobody out of step."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.cli.app import run
from spectron_migrate.dump import open_dump
from spectron_migrate.dump.plan_file import read_plan
from spectron_migrate.errors import ExitCode, Incomplete, InputError, LedgerLocked, NotLegal, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.shards import Shard, find, hold, open_all
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration import sharding
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.sharding import Sharding
from spectron_migrate.records import Filters
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import texts
from tests.support.scene import Scene
from tests.support.spectron import memory, register_scope, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

NOW = "2026-05-04T12:00:00.000000Z"


@pytest.fixture
def led_to(spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    return spectron


def make_dump(rows: list[dict[str, object]], name: str = "all.json") -> None:
    assert 0 == run(["export", "--from", str(write_raw(Path(name), rows)), "-q"])


def rows_of(user: str, users: int = 6, each: int = 8) -> list[dict[str, object]]:
    return [memory(number, f"{user}{letter}") for letter in "abcdefgh"[:users] for number in range(each)]


def balanced(user: str) -> list[str]:
    """Three users of each of two shards."""
    named = [f"{user}{number}" for number in range(100)]
    return [one for part in range(2) for one in [one for one in named if Shard(part, 2).takes(f"user/{one}")][:3]]


def eight_each(users: list[str]) -> list[dict[str, object]]:
    return [memory(number, one) for one in users for number in range(8)]


def all_once_in_order(server: RunningServer, users: list[str]) -> bool:
    return all(
        [f"{one} remembers thing number {number}" for number in range(8)]
        == [turn.content for turn in turns_of(server, one)]
        for one in users
    )


def shard(number: int, endpoint: str) -> subprocess.Popen[str]:
    """One of two shards, in a process of its own."""
    led = {name: value for name, value in os.environ.items() if name.startswith("SPECTRON_")}
    return subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "replay", "--shard", f"{number}/2", "--json"],
        env={**clean_environment(os.environ), **led, "SPECTRON_ENDPOINT": endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return str(json.loads(capsys.readouterr().out)["error"]["message"])


@settings(deadline=None)
@given(st.text(), st.integers(1, 50))
def test_every_lane_belongs_to_exactly_one_shard(lane: str, of: int) -> None:
    assert 1 == sum(Shard(number, of).takes(lane) for number in range(of))


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0", "1/1025", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="i/N"):
        Shard.parse(text)


def test_two_processes_at_once_write_everything_once_and_in_order(led_to: RunningServer, user: str) -> None:
    users = balanced(user)
    make_dump(eight_each(users))
    both = [shard(number, led_to.base_url) for number in range(2)]
    said = [process.communicate(timeout=90) for process in both]
    assert [0, 0] == [process.returncode for process in both], said
    assert [24, 24] == [json.loads(out)["written"] for out, _ in said]
    assert all_once_in_order(led_to, users)


def test_a_shard_that_is_killed_goes_on_while_the_other_runs(led_to: RunningServer, user: str) -> None:
    users = balanced(user)
    make_dump(eight_each(users))
    running: list[subprocess.Popen[str]] = []
    facts: list[int] = []

    def kill(seen: Seen) -> Fault:
        facts.extend([seen.number] if seen.path.endswith("/facts") else [])
        if len(facts) == 10:
            running[0].kill()
            running[0].wait()
        return "none"

    with misbehaving(led_to.base_url, kill) as proxy:
        running.append(shard(0, proxy.base_url))
        other = shard(1, led_to.base_url)
        said = other.communicate(timeout=60)
        assert -9 == running[0].wait(60), said[0][-900:]
        assert 0 == other.returncode, said[0][-900:]
        again = shard(0, led_to.base_url)
        assert 0 == again.wait(60)
    assert all_once_in_order(led_to, users)


def test_a_shard_that_runs_again_writes_nothing_and_verification_reads_all(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user, users=3, each=3))
    for number in (0, 1, 0, 1):
        capsys.readouterr()
        assert 0 == run(["replay", "--shard", f"{number}/2", "--json"])
    assert 0 == json.loads(capsys.readouterr().out)["written"]
    assert run(["dual-verify", "--json"]) in (0, 5)
    told = json.loads(capsys.readouterr().out)
    assert 9 == told["integrity"]["expected"]
    assert 9 == told["integrity"]["present"]


def test_a_scope_that_others_made_between_two_runs_of_a_shard_is_refused(led_to: RunningServer, user: str) -> None:
    users = balanced(user)
    make_dump(rows_of(user, users=1, each=1))
    for number in (0, 1):
        assert 0 == run(["replay", "--shard", f"{number}/2", "-q"])
    for each in users:
        register_scope(led_to, f"user/{each}")
    make_dump([*rows_of(user, users=1, each=1), *eight_each(users)])
    for number in (0, 1):
        assert 10 == run(["replay", "--shard", f"{number}/2", "-q"])


def test_a_scope_that_another_shard_made_between_two_runs_is_not_foreign(led_to: RunningServer, user: str) -> None:
    """The memories of all users of one organisation are in its scope as well, which the first shard registers."""
    users = balanced(user)
    Path("mapping.yaml").write_text(
        "version: 1\nrules:\n  - when: {user_id: '*', agent_id: '*'}\n\n"
        "    scope: {all_of: [{user: '{user_id}'}, {agent: '{agent_id}'}]}\n"
        "  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n"
    )
    make_dump(rows_of(user, users=1, each=1))
    for number in (0, 1):
        assert 0 == run(["replay", "--shard", f"{number}/2", "-q", "--mapping", "mapping.yaml"])
    more = [{**row, "agent_id": f"{user}bot"} for row in eight_each(users)]
    make_dump([*rows_of(user, users=1, each=1), *more])
    for number in (0, 1):
        assert 0 == run(["replay", "--shard", f"{number}/2", "-q", "--mapping", "mapping.yaml"])


def test_a_missing_shard_is_exit_code_11_where_all_are_needed(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user))
    assert 0 == run(["replay", "--shard", "1/3", "-q"])
    capsys.readouterr()
    assert 11 == run(["dual-verify", "--json"])
    assert "0/3, 2/3" in error(capsys)
    with pytest.raises(Incomplete):
        open_all(Path(".spectron-migrate"))
    assert ("0/3", "2/3") == find(Path(".spectron-migrate")).missing


def test_another_number_of_shards_is_refused(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user))
    assert 0 == run(["replay", "--shard", "0/2", "-q"])
    capsys.readouterr()
    assert 2 == run(["replay", "--shard", "0/3", "--json"])
    assert "2 shards" in error(capsys)
    assert not Path(".spectron-migrate/shard-0-of-3").exists()


def test_a_plain_replay_beside_shards_is_refused(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user))
    assert 0 == run(["replay", "--shard", "0/2", "-q"])
    capsys.readouterr()
    assert 2 == run(["replay", "--json"])
    assert "2 shards" in error(capsys)
    assert not Path(".spectron-migrate/ledger.db").exists()


def test_a_shard_of_a_migration_that_was_begun_without_is_refused(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user))
    assert 8 == run(["replay", "--limit", "1", "-q"])
    capsys.readouterr()
    assert 2 == run(["replay", "--shard", "0/2", "--json"])
    assert "without shards" in error(capsys)
    assert not Path("dump/plan.json").exists()


def test_another_mapping_is_refused_because_lanes_would_change_hands(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dump(rows_of(user))
    assert 0 == run(["replay", "--shard", "0/2", "-q"])
    Path("mapping.yaml").write_text(
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {team: x, user: '{user_id}'}\n"
    )
    capsys.readouterr()
    assert 2 == run(["replay", "--shard", "1/2", "--mapping", "mapping.yaml", "--json"])
    assert "mapping" in error(capsys)


def test_raw_files_have_no_place_for_the_shards_plan(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_raw(Path("raw.json"), rows_of(user))
    assert 2 == run(["replay", "--dump", str(raw), "--shard", "0/2", "--json"])
    assert "dump directory" in error(capsys)
    assert not Path(".spectron-migrate").exists()


def test_scopes_of_one_shard_are_not_foreign_to_the_next(led_to: RunningServer, user: str) -> None:
    """A shared node, made by whoever comes first, was not there before the migration."""
    rule = "  - when: {user_id: '*'}\n    scope: {all_of: [{team: " + user + "}, {user: '{user_id}'}]}\n"
    Path("mapping.yaml").write_text(f"version: 1\nrules:\n{rule}")
    make_dump(rows_of(user, users=4, each=2))
    for number in (0, 1):
        assert 0 == run(["replay", "--shard", f"{number}/2", "--mapping", "mapping.yaml", "-q"])
    assert all(2 == len(turns_of(led_to, f"{user}{letter}")) for letter in "abcd")
    standing = read_plan(Path("dump"))
    assert standing is not None
    assert not any(user in path for path in standing.scopes)


def test_a_newer_export_is_taken_over_and_a_memory_that_changed_lanes_is_not_written_twice(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever had sent it keeps it, whatever shard its new lane belongs to."""
    users = [f"{user}{letter}" for letter in "abcdefgh"]
    first = [memory(1, owner) for owner in users]
    make_dump(first)
    for number in range(2):
        assert 0 == run(["replay", "--shard", f"{number}/2", "-q"])
    moved = next(
        (one, other)
        for one in users
        for other in users
        if Shard(0, 2).takes(f"user/{one}") != Shard(0, 2).takes(f"user/{other}")
    )
    second = [{**row, "user_id": moved[1]} if row["user_id"] == moved[0] else row for row in first]
    more = memory(9, users[0])
    make_dump([*second, more], "later.json")
    capsys.readouterr()
    written = 0
    for number in range(2):
        assert 0 == run(["replay", "--shard", f"{number}/2", "--json"])
        written += json.loads(capsys.readouterr().out)["written"]
    assert 1 == written
    assert 1 == len(turns_of(led_to, moved[1])) - (moved[1] == users[0])
    assert 9 == sum(len(turns_of(led_to, owner)) for owner in users)


def test_a_newer_export_waits_until_no_shard_works_with_the_older_one(tmp_path: Path) -> None:
    agreed: list[str] = []
    with hold(tmp_path, lambda: True, lambda: None), pytest.raises(LedgerLocked, match="earlier export"):
        hold(tmp_path, lambda: False, lambda: agreed.append("no"), sleep=lambda _: None)
    assert [] == agreed
    with hold(tmp_path, lambda: bool(agreed), lambda: agreed.append("yes")):
        assert ["yes"] == agreed


def test_a_shard_that_planned_an_older_export_than_the_one_that_stands_writes_nothing(
    led_to: RunningServer, user: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both began before there was a plan to keep to; the one that is slower must not go on with its own."""
    make_dump(rows_of(user))
    create = sharding.create_plan
    monkeypatch.setattr(
        sharding, "create_plan", lambda dump, plan: create(dump, replace(plan, plan="of a newer export"))
    )
    capsys.readouterr()
    assert 9 == run(["replay", "--shard", "0/2", "--json"])
    assert "another shard has started" in error(capsys)
    assert all([] == turns_of(led_to, f"{user}{letter}") for letter in "abcdef")


def test_a_ledger_appears_whole_to_whoever_reads_meanwhile(tmp_path: Path) -> None:
    met: list[str] = []
    folders = [tmp_path / str(number) for number in range(15)]
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for folder in folders:
                try:
                    Ledger.open_for_reading(folder).close()
                except InputError as error:
                    met.extend([] if "there is no ledger" in error.message else [error.message])

    reader = threading.Thread(target=read)
    reader.start()
    for folder in folders:
        with Ledger.open_for_writing(folder) as ledger, ledger.transaction():
            ledger.claim(context="c", source="s", mapping_digest="", tool_version="", now="")
    over.set()
    reader.join()
    assert [] == met


def test_a_memory_that_moves_to_another_shards_lane_while_followed_is_not_written_twice(scene: Scene) -> None:
    owners = [f"{scene.user}{letter}" for letter in "abcdefghijkl"]
    one, other = (next(each for each in owners if Shard(part, 2).takes(f"user/{each}")) for part in range(2))
    old = scene.time.moment - timedelta(hours=2)
    scene.store.put(1, "a thing of one", one, old)
    scene.store.put(2, "a thing of the other", other, old)
    dump = scene.export()
    for number in range(2):
        options = ReplayOptions(shard=Shard(number, 2))
        assert ExitCode.DONE == replay(scene.server, scene.state, [dump], options=options).exit_code
    scene.time.pass_(600)
    scene.store.put(1, "a thing of one", other, old)
    done = scene.round(compare=True)
    assert ["a thing of the other"] == texts(scene.server, other), done


def test_a_plain_replay_of_another_dump_beside_shards_is_refused(scene: Scene, tmp_path: Path) -> None:
    owners = [f"{scene.user}{letter}" for letter in "abcdefghijkl"]
    one, other = (next(each for each in owners if Shard(part, 2).takes(f"user/{each}")) for part in range(2))
    old = scene.time.moment - timedelta(hours=2)
    scene.store.put(1, "a thing of one", one, old)
    scene.store.put(2, "a thing of the other", other, old)
    dump = scene.export()
    replay(scene.server, scene.state, [dump], options=ReplayOptions(shard=Shard(0, 2)))
    again = Scene(scene.store, scene.server, tmp_path / "elsewhere", scene.user)
    with pytest.raises((InputError, NotLegal)):
        replay(
            scene.server,
            scene.state,
            [again.export()],
            options=ReplayOptions(filters=Filters(users=frozenset({other}))),
        )


def test_two_shards_with_two_copies_of_the_dump_do_not_work_side_by_side(scene: Scene, tmp_path: Path) -> None:
    """Else one takes a memory by its old lane and the other by its new one."""
    scene.put(1, "a thing")
    first = scene.export()
    again = Scene(scene.store, scene.server, tmp_path / "elsewhere", scene.user)
    again.time.pass_(60)
    second = again.export()
    mapping = load_mapping(None)
    with open_dump(first) as one, open_dump(second) as two:
        running = Sharding(Shard(0, 2), scene.state, one, mapping, context=scene.server.context)
        begin_shard(running, scene)
        other = Sharding(Shard(1, 2), scene.state, two, mapping, context=scene.server.context)
        with closing(running), closing(other), pytest.raises((LedgerLocked, InputError)):
            begin_shard(other, scene)


def begin_shard(sharding: Sharding, scene: Scene) -> None:
    """What a shard does before it plans and sends."""

    async def agree() -> None:
        async with scene.api() as api:
            await sharding.first_listing(api, now=NOW)

    sharding.join(sleep=lambda _: None)
    asyncio.run(agree())


def test_a_shard_whose_ledger_was_lost_does_not_write_everything_again(scene: Scene) -> None:
    scene.put(1, "a thing")
    dump = scene.export()
    number = next(part for part in range(2) if Shard(part, 2).takes(f"user/{scene.user}"))
    options = ReplayOptions(shard=Shard(number, 2))
    assert 1 == replay(scene.server, scene.state, [dump], options=options).written
    shutil.rmtree(scene.state)
    with pytest.raises(WrongLedger, match="another ledger of this migration"):
        replay(scene.server, scene.state, [dump], options=options)
    assert ["a thing"] == scene.texts
