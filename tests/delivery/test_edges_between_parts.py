"""Where batches, shards, following, cutover and erase meet: each test names what must not happen there."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import ExitCode, InputError, LedgerLocked, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.ledger.shards import Shard
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.erase import Eraser
from spectron_migrate.migration.ledger_access import open_ledgers
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.migration.sharding import Sharding
from spectron_migrate.records import Filters, NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.journal import Step, acceptance_mark, record_step
from tests.delivery.playing import mapping_file, replay_in_no_time
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.scene import Scene
from tests.support.spectron import memory, replay, turns_of, write_raw

NOW = "2026-05-04T12:00:00.000000Z"


def texts(server: RunningServer, user: str) -> list[str]:
    return [turn.content for turn in turns_of(server, user)]


# -- batches ------------------------------------------------------------------------------------------------


def never_arrives(seen: Seen) -> Fault:
    return "cut_before" if seen.path.endswith("/facts/batch") else "none"


def test_a_batch_that_never_left_does_not_bring_back_a_memory_deleted_meanwhile(scene: Scene, tmp_path: Path) -> None:
    mapping = mapping_file(tmp_path, "infer: none\nwrite: batch\n")
    for number in range(4):
        scene.put(number, f"{scene.user} remembers thing number {number}")
    with misbehaving(scene.server.base_url, never_arrives) as proxy:
        first = replay_in_no_time(scene.server, scene.state, scene.export(), endpoint=proxy.base_url, mapping=mapping)
    assert 4 == first.in_doubt
    scene.time.pass_(60)
    scene.store.drop(2)
    replay_in_no_time(scene.server, scene.state, scene.export(), mapping=mapping)
    assert f"{scene.user} remembers thing number 2" not in texts(scene.server, scene.user)


def test_a_batch_that_never_left_does_not_write_a_text_replaced_meanwhile(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    mapping = mapping_file(tmp_path, "infer: none\nwrite: batch\n")
    rows = [memory(number, user) for number in range(4)]
    with misbehaving(spectron.base_url, never_arrives) as proxy:
        first = write_raw(tmp_path / "one.json", rows)
        replay_in_no_time(spectron, tmp_path / "state", first, endpoint=proxy.base_url, mapping=mapping)
    rows[1] = {**rows[1], "memory": "a newer text", "updated_at": "2025-02-01T00:00:00+00:00"}
    second = write_raw(tmp_path / "two.json", rows)
    replay_in_no_time(spectron, tmp_path / "state", second, mapping=mapping)
    assert f"{user} remembers thing number 1" not in texts(spectron, user)


# -- a person's word ----------------------------------------------------------------------------------------


def test_the_turn_that_a_person_found_present_is_not_taken_for_the_next_memorys(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(2)])

    def no_listing(seen: Seen) -> Fault:
        if seen.writes_fact:
            return "cut_after"
        return refusing(404, "no such session") if "/turns" in seen.path else "none"

    with misbehaving(spectron.base_url, no_listing) as proxy:
        first = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert 1 == first.undecidable
    tries = 0

    def never_taken(seen: Seen) -> Fault:
        nonlocal tries
        tries += seen.writes_fact
        return "none" if not seen.writes_fact else "cut_before" if tries == 1 else "500_before"

    present = ReplayOptions(resolve={f"{user}-0000": "present"})
    with misbehaving(spectron.base_url, never_taken) as proxy:
        replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, options=present)
    last = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert [f"{user} remembers thing number {number}" for number in range(2)] == texts(spectron, user), last


# -- shards and following -----------------------------------------------------------------------------------


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


def test_a_reading_that_finds_a_memory_in_another_scope_than_it_was_sent_to_does_not_agree(scene: Scene) -> None:
    """Else reads of its new owner go to Spectron, where only the old one sees it."""
    scene.put(1, "a thing that changes hands")
    scene.round()
    scene.time.pass_(600)
    scene.store.put(1, "a thing that changes hands", f"{scene.user}new", scene.time.moment - timedelta(hours=2))
    done = scene.round(compare=True)
    assert done.compared is not None
    assert done.compared.total or f"{scene.user}new" in (done.behind or ())


def test_a_new_text_of_a_memory_that_changed_hands_is_not_called_agreement(scene: Scene) -> None:
    scene.put(1, "a thing that changes hands")
    scene.round()
    scene.time.pass_(600)
    at = scene.time.moment
    scene.store.put(1, "its newer text", f"{scene.user}new", at - timedelta(hours=2), edited=at - timedelta(minutes=5))
    done = scene.round(compare=True)
    assert done.compared is not None
    stored = texts(scene.server, scene.user) + texts(scene.server, f"{scene.user}new")
    assert "its newer text" in stored or done.compared.total or f"{scene.user}new" in (done.behind or ())


def test_whose_newest_memory_was_refused_is_not_read_from_spectron_as_if_it_were_there(
    scene: Scene,
) -> None:
    scene.put(1, "a thing that arrives")
    scene.round()
    scene.put(2, "a thing that is refused", ago=600)

    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, refuse) as proxy:
        scene.endpoint = proxy.base_url
        done = scene.round(compare=True)
    assert 1 == done.refused
    assert done.behind is None or scene.user in done.behind


def test_only_an_acceptance_of_that_very_refusal_lets_its_owner_be_read_from_spectron(scene: Scene) -> None:
    record_step(scene.state, Step("start", NOW, "anna", migration="m"))
    scene.put(1, "a thing that arrives")
    scene.round()
    scene.put(2, "a thing that is refused", ago=600)

    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this one") if seen.writes_fact else "none"

    def is_behind() -> bool:
        done = scene.round(compare=True)
        assert 1 == done.refused
        return done.behind is None or scene.user in done.behind

    def accept(gate_name: str) -> None:
        with open_ledgers(scene.state) as ledgers:
            shown = cutover.refused_memories(ledgers)
        about = " ".join(acceptance_mark(said) for said in shown.values())
        record_step(scene.state, Step("accept", NOW, "anna", "seen", gate=gate_name, ids=tuple(shown), about=about))

    with misbehaving(scene.server.base_url, refuse) as proxy:
        scene.endpoint = proxy.base_url
        assert is_behind()
        accept("will_not_expire")
        assert is_behind()
        accept("refused")
        assert not is_behind()
        scene.time.pass_(600)
        scene.put(2, "another text that is refused", ago=300)
        assert is_behind()


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


# -- erase --------------------------------------------------------------------------------------------------


def erasing(server: RunningServer, state: Path, path: str, between: object = None) -> int:
    async def work() -> int:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key, timeout_s=20.0) as api:
            with Ledger.open_for_writing(state) as ledger:
                known = ledger.migration()
                assert known is not None
                eraser = Eraser([ledger], api, state, migration=known.id, now=NOW, reporter=NullReporter())
                found = await eraser.examine([path])
                if callable(between):
                    between()
                return await eraser.carry_out(found)

    return asyncio.run(work())


def others_turns(server: RunningServer, path: str) -> int:
    with closing(sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM turns WHERE scopes LIKE ?", (f'%"{path}/%',)).fetchone()[0])


def call(server: RunningServer, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
    import httpx

    answer = httpx.request(
        method,
        f"{server.base_url}/api/v1/{server.context}{path}",
        json=body,
        headers={"Authorization": f"Bearer {server.api_key}"},
    )
    assert answer.status_code in (200, 201, 204), answer.text


def test_a_tombstoned_node_of_others_below_a_scope_keeps_it_from_being_erased(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """Tombstoning takes the node alone: what was written there is still there, and would go."""
    dump = write_raw(tmp_path / "all.json", [memory(number, user, f"{user} thing {number}") for number in range(60)])
    replay(spectron, tmp_path / "state", [dump])
    theirs = f"user/{user}/diary"
    call(spectron, "POST", "/scopes", {"path": theirs})
    call(spectron, "POST", "/facts", {"text": "zzz their own words", "infer": "none", "scopes": [[theirs]]})
    call(spectron, "DELETE", f"/scopes?path={theirs}")
    assert 1 == others_turns(spectron, theirs)
    with suppress(NotLegal):
        erasing(spectron, tmp_path / "state", f"user/{user}")
    assert 1 == others_turns(spectron, theirs)


def test_a_node_that_others_make_while_somebody_thinks_it_over_keeps_the_scope_from_being_erased(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, f"{user} thing {number}") for number in range(60)])
    replay(spectron, tmp_path / "state", [dump])
    theirs = f"user/{user}/diary"

    def meanwhile() -> None:
        call(spectron, "POST", "/scopes", {"path": theirs})
        call(spectron, "POST", "/facts", {"text": "zzz their own words", "infer": "none", "scopes": [[theirs]]})

    with suppress(NotLegal):
        erasing(spectron, tmp_path / "state", f"user/{user}", meanwhile)
    assert 1 == others_turns(spectron, theirs)


def test_a_cutover_that_begins_while_somebody_thinks_it_over_keeps_the_scope_from_being_erased(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user)])])

    def meanwhile() -> None:
        record_step(tmp_path / "state", Step("start", NOW, "anna", migration="m"))

    with pytest.raises(NotLegal):
        erasing(spectron, tmp_path / "state", f"user/{user}", meanwhile)
    assert 1 == len(turns_of(spectron, user))


# -- what else may meet -------------------------------------------------------------------------------------


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
        begin(running, scene)
        other = Sharding(Shard(1, 2), scene.state, two, mapping, context=scene.server.context)
        with closing(running), closing(other), pytest.raises((LedgerLocked, InputError)):
            begin(other, scene)


def begin(sharding: Sharding, scene: Scene) -> None:
    """What a shard does before it plans and sends."""

    async def agree() -> None:
        async with scene.api() as api:
            await sharding.first_listing(api, now=NOW)

    sharding.join(sleep=lambda _: None)
    asyncio.run(agree())


def test_a_mapping_that_gives_a_scope_another_lane_lets_no_older_fact_supersede_newer_ones(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    def mapped(name: str, who: str) -> Path:
        path = tmp_path / name
        rule = f"  - when: {{user_id: '*', agent_id: '*'}}\n    scope: {{user: {who}, agent: '{{agent_id}}'}}\n"
        path.write_text(f"version: 1\nrules:\n{rule}")
        return path

    newer, older = memory(9, user, agent_id="x"), memory(3, user, agent_id="x")
    first = write_raw(tmp_path / "one.json", [newer])
    replay(spectron, tmp_path / "state", [first], mapping=mapped("one.yaml", "'{user_id}'"))
    second = write_raw(tmp_path / "two.json", [newer, older])
    done = replay(spectron, tmp_path / "state", [second], mapping=mapped("two.yaml", user))
    assert (1, 1) == (done.written, done.late)


def test_a_shard_whose_ledger_was_lost_does_not_write_everything_again(scene: Scene) -> None:
    """The listing in plan.json is of before the first run: it cannot tell that the scopes are there by now."""
    scene.put(1, "a thing")
    dump = scene.export()
    number = next(part for part in range(2) if Shard(part, 2).takes(f"user/{scene.user}"))
    options = ReplayOptions(shard=Shard(number, 2))
    assert 1 == replay(scene.server, scene.state, [dump], options=options).written
    shutil.rmtree(scene.state)
    with suppress(NotLegal):
        again = replay(scene.server, scene.state, [dump], options=options)
        pytest.fail(f"it went on: {again.written} written, {again.refused} refused, {scene.texts} there")


def test_a_clock_that_was_ahead_for_one_reading_hides_no_deletion(scene: Scene) -> None:
    """What was deleted after the clock was put right is not sent, and reconciling agrees again."""
    scene.put(1, "a thing that is deleted before it is sent")
    scene.put(2, "a thing that stays")
    scene.time.pass_(7200)

    def stopped(seen: Seen) -> Fault:
        return refusing(403, "not now") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, stopped) as proxy:
        scene.endpoint = proxy.base_url
        scene.round()
    scene.endpoint = None
    scene.time.pass_(-7000)
    scene.store.drop(1)
    done = scene.rounds_until_none_is_held(compare=True)
    assert done.compared is not None
    assert (["a thing that stays"], 0) == (scene.texts, done.compared.total)


def test_words_of_others_that_are_part_of_ours_are_not_taken_for_ours(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user, "likes tea with milk")])])
    theirs = {"text": "tea with milk", "infer": "none", "scopes": [[f"user/{user}"]]}
    call(spectron, "POST", "/facts", theirs)
    with suppress(NotLegal):
        erasing(spectron, tmp_path / "state", f"user/{user}")
    assert "tea with milk" in texts(spectron, user)


def test_a_replay_of_an_older_copy_of_the_dump_in_between_leaves_nothing_planned_for_good(
    scene: Scene, tmp_path: Path
) -> None:
    scene.put(1, "a thing that arrives")
    older = shutil.copytree(scene.export(), tmp_path / "older")
    scene.time.pass_(60)
    scene.put(2, "a thing that waits")
    scene.export()

    def stopped(seen: Seen) -> Fault:
        return refusing(403, "not now") if seen.writes_fact else "none"

    with misbehaving(scene.server.base_url, stopped) as proxy:
        scene.endpoint = proxy.base_url
        scene.round()
    scene.endpoint = None
    replay(scene.server, scene.state, [older])
    scene.time.pass_(60)
    done = scene.round(compare=True)
    assert ["a thing that arrives", "a thing that waits"] == sorted(scene.texts), done


class PowerCut(Exception):
    """The machine is off."""


@pytest.mark.parametrize("answer", ["none", "cut_in_batch"])
def test_a_power_cut_between_any_two_commits_of_batches_costs_no_memory(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """What was not asked to be on the disk is lost with it."""
    mapping = mapping_file(tmp_path, "infer: none\nwrite: batch\nsession: {by: run_id, size: 5}\n")
    commit = GroupCommit._commit
    for cut in range(1, 9):
        one = f"{user}{answer[-3:]}{cut}"
        dump = write_raw(tmp_path / f"{one}.json", [memory(number, one) for number in range(8)])
        state, disk, seen = tmp_path / f"state{cut}", tmp_path / f"disk{cut}", [0]

        def commits(
            self: GroupCommit,
            group: list[Any],
            *,
            state: Path = state,
            disk: Path = disk,
            seen: list[int] = seen,
            cut: int = cut,
        ) -> list[Any]:
            durable = any(each[2] for each in group)
            seen[0] += durable
            if seen[0] > cut:
                raise PowerCut
            done = commit(self, group)
            if durable:
                shutil.copytree(state, disk, dirs_exist_ok=True)
            return done

        played = [0]

        def fault(seen: Seen, played: list[int] = played) -> Fault:
            played[0] += seen.path.endswith("/facts/batch")
            return answer if seen.path.endswith("/facts/batch") and played[0] in (1, 2) else "none"

        with monkeypatch.context() as patched, misbehaving(spectron.base_url, fault) as proxy:
            patched.setattr(GroupCommit, "_commit", commits)
            with suppress(PowerCut, ExceptionGroup):
                replay_in_no_time(spectron, state, dump, endpoint=proxy.base_url, mapping=mapping)
        if seen[0] > cut:
            shutil.rmtree(state)
            shutil.copytree(disk, state)
        done = replay_in_no_time(spectron, state, dump, mapping=mapping)
        expected = [f"{one} remembers thing number {number}" for number in range(8)]
        assert (expected, ExitCode.DONE) == (sorted(texts(spectron, one)), done.exit_code), (cut, done)
