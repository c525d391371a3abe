"""`write: batch`: many memories a request, and still each of them once, in order, and decided by evidence."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.copies import copy_state, lose_state
from tests.support.ledgers import facts_of
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import BATCH, expected_texts, mapping_file, replay_in_no_time, texts
from tests.support.scene import Scene
from tests.support.spectron import memory, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.both_engines]


def is_batch(seen: Seen) -> bool:
    """Whether a request writes a batch."""
    return seen.path.endswith("/facts/batch")


def test_memories_go_many_a_request_and_arrive_once_in_order(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(70)])
    mapping = mapping_file(tmp_path, BATCH)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
        batches = [json.loads(seen.body) for seen in proxy.seen if is_batch(seen)]
    assert ExitCode.DONE == summary.exit_code
    assert 70 == summary.written
    assert [32, 32, 6] == [len(batch["messages"]) for batch in batches]
    assert {("per_message", "none")} == {(batch["extract"], batch["infer"]) for batch in batches}
    assert "2025-01-01T00:00:00.000000Z" == batches[0]["messages"][0]["ts"]
    assert expected_texts(user, 70) == texts(spectron, user)
    again = replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping)
    assert 0 == again.written
    assert 70 == again.already


def test_every_turn_of_a_batch_is_the_receipt_of_its_memory(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user, "the same words") for number in range(5)] + [memory(9, user, "other words")]
    dump = write_raw(tmp_path / "all.json", rows)
    replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping_file(tmp_path, BATCH))
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        rows_kept = sorted(facts_of(ledger), key=lambda row: row["position"])
    assert {"written"} == {row["state"] for row in rows_kept}
    assert 6 == len({row["turn_id"] for row in rows_kept})
    assert list(range(6)) == [row["position"] for row in rows_kept]


def test_extraction_in_batches_is_refused_in_a_sentence_and_done_where_it_is_accepted(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, f"likes thing {number}") for number in range(9)])
    mapping = mapping_file(tmp_path, "write: batch\n")
    with pytest.raises(InputError, match="may expire after 7 days"):
        replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping)
    assert [] == texts(spectron, user)
    accepted = ReplayOptions(accept_expiry=True)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping, options=accepted
        )
        assert [9] == [len(json.loads(seen.body)["messages"]) for seen in proxy.seen if is_batch(seen)]
    assert ExitCode.DONE == summary.exit_code
    assert 9 == summary.written


@pytest.mark.parametrize(
    "fault",
    ["cut_before", "cut_after", "half_answer", "garbage", "500_before", "500_after", "429", "429_bare", "503", "late"],
)
def test_every_fault_of_a_batch_ends_in_each_memory_once(
    spectron: RunningServer, user: str, tmp_path: Path, fault: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(40)])
    played = 0

    def first_batch(seen: Seen) -> Fault:
        nonlocal played
        played += is_batch(seen)
        return fault if is_batch(seen) and played == 1 else "none"

    with misbehaving(spectron.base_url, first_batch) as proxy:
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(tmp_path, BATCH),
        )
    assert ExitCode.DONE == summary.exit_code
    assert 40 == summary.written
    assert 0 == summary.undecidable
    assert sorted(expected_texts(user, 40)) == sorted(texts(spectron, user))


def test_after_a_cut_with_nothing_there_the_same_bytes_go_again(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(10)])
    cuts = 0

    def cut_first(seen: Seen) -> Fault:
        nonlocal cuts
        cuts += is_batch(seen)
        return "cut_before" if is_batch(seen) and cuts == 1 else "none"

    with misbehaving(spectron.base_url, cut_first) as proxy:
        replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, BATCH)
        )
        sent = [(seen.headers["idempotency-key"], seen.body) for seen in proxy.seen if is_batch(seen)]
    assert 2 == len(sent)
    assert 1 == len(set(sent))


def test_a_part_is_believed_after_a_quarter_of_an_hour_and_the_rest_goes_under_a_new_key(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(10)])
    cuts, moments = 0, [0.0]

    def part_of_first(seen: Seen) -> Fault:
        nonlocal cuts
        cuts += is_batch(seen)
        return "cut_in_batch" if is_batch(seen) and cuts == 1 else "none"

    with misbehaving(spectron.base_url, part_of_first) as proxy:
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(tmp_path, BATCH),
            waited=moments.append,
        )
        sent = [seen for seen in proxy.seen if is_batch(seen)]
    assert ExitCode.DONE == summary.exit_code
    assert 10 == summary.written
    assert expected_texts(user, 10) == texts(spectron, user)
    assert moments[-1] >= 900
    assert [10, 5] == [len(json.loads(seen.body)["messages"]) for seen in sent]
    assert 2 == len({seen.headers["idempotency-key"] for seen in sent})


def test_turns_that_are_not_the_batchs_make_all_of_it_undecidable(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(4)])

    def cut(seen: Seen) -> Fault:
        return "cut_after" if is_batch(seen) else "none"

    with misbehaving(spectron.base_url, cut) as proxy:
        proxy.change = lambda seen, body: (  # type: ignore[method-assign]
            body.replace(b"thing number 0", b"thing number 7") if "/turns" in seen.path else None
        )
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, BATCH)
        )
    assert ExitCode.REFUSED == summary.exit_code
    assert 4 == summary.undecidable


def test_one_refused_memory_does_not_keep_the_others_of_its_batch_out(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])

    def refuse(seen: Seen) -> Fault:
        bad = is_batch(seen) and f'"{user} remembers thing number 13"'.encode() in seen.body
        return refusing(422, "not this one") if bad else "none"

    with misbehaving(spectron.base_url, refuse) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, BATCH)
        )
    assert 19 == summary.written
    assert 1 == summary.refused
    assert ExitCode.REFUSED == summary.exit_code
    assert [f"{user}-0013"] == [row["id"] for row in summary.reasons]
    assert sorted(set(expected_texts(user, 20)) - {f"{user} remembers thing number 13"}) == sorted(
        texts(spectron, user)
    )


@pytest.mark.parametrize("number", [0, 13, 31])
def test_a_memory_whose_refusal_speaks_of_a_session_is_refused_and_holds_nothing(
    spectron: RunningServer, user: str, tmp_path: Path, number: int
) -> None:
    """A server may repeat the request in its refusal, with the name of the session."""
    dump = write_raw(tmp_path / "all.json", [memory(each, user) for each in range(40)])

    def refuse(seen: Seen) -> Fault:
        bad = is_batch(seen) and f'"{user} remembers thing number {number}"'.encode() in seen.body
        return refusing(422, 'not this one: {"session_id": "s1", "messages": []}') if bad else "none"

    with misbehaving(spectron.base_url, refuse) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, BATCH)
        )
    assert (39, 1, 0) == (summary.written, summary.refused, summary.in_doubt)
    assert [f"{user}-{number:04d}"] == [row["id"] for row in summary.reasons]


def test_a_batch_that_a_dead_process_sent_is_decided_before_anything_else(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(50)])
    silent = False

    def fall_silent(seen: Seen) -> Fault:
        nonlocal silent
        silent = silent or is_batch(seen)
        return "cut_after" if silent else "none"

    mapping = mapping_file(tmp_path, BATCH)
    with misbehaving(spectron.base_url, fall_silent) as proxy:
        first = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    assert 0 == first.written
    assert 32 == first.in_doubt
    second = replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping)
    assert ExitCode.DONE == second.exit_code
    assert 50 == second.written
    assert expected_texts(user, 50) == sorted(texts(spectron, user), key=lambda text: int(text.split()[-1]))


def test_a_limit_counts_memories_in_batches_too(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(50)])
    summary = replay_in_no_time(
        spectron,
        tmp_path / "state",
        dump,
        mapping=mapping_file(tmp_path, BATCH),
        options=ReplayOptions(limit=40),
    )
    assert ExitCode.LIMIT == summary.exit_code
    assert 40 == summary.written
    assert 10 == summary.remaining


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
                copy_state(state, disk)
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
            lose_state(state)
            copy_state(disk, state)
        done = replay_in_no_time(spectron, state, dump, mapping=mapping)
        expected = [f"{one} remembers thing number {number}" for number in range(8)]
        assert expected == sorted(texts(spectron, one)), (cut, done)
        assert ExitCode.DONE == done.exit_code, (cut, done)
