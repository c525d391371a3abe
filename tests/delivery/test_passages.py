"""Without extraction, a turn that is there is the receipt: nothing is sent again, and its passage is looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.state.store import store_at
from tests.support.oracle import ledger_facts
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import NONE, expected_texts, forged, is_write, mapping_file, replay_in_no_time, texts
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", ["500_after_released", "cut_after_released", "500_after_stuck", "cut_after"])
def test_a_text_whose_turn_is_there_is_not_sent_again_also_where_its_key_was_forgotten(
    spectron: RunningServer, user: str, tmp_path: Path, fault: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])
    writes: list[Seen] = []

    def every_third(seen: Seen) -> Fault:
        if not is_write(seen):
            return "none"
        writes.append(seen)
        return fault if len(writes) % 3 == 2 else "none"

    with misbehaving(spectron.base_url, every_third) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, NONE)
        )
    assert ExitCode.DONE == summary.exit_code
    assert 12 == len(writes)
    assert sorted(expected_texts(user, 12)) == sorted(texts(spectron, user))


def test_equal_texts_each_get_a_passage_of_their_own(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, "the same words") for number in range(6)])
    with misbehaving(spectron.base_url, lambda seen: "500_after_released" if is_write(seen) else "none") as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, NONE)
        )
    assert 6 == summary.written
    assert 6 == len(texts(spectron, user))


def test_a_text_that_cannot_be_found_is_named_and_not_sent_again(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    forged(monkeypatch, lambda seen, _: b'{"tier":"full","hits":[]}' if seen.path.endswith("/query") else None)
    queried: list[float] = []

    def cut_second(seen: Seen) -> Fault:
        return "cut_after" if is_write(seen) and b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, cut_second) as proxy:
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(tmp_path, NONE),
            waited=queried.append,
        )
    assert 1 == summary.stored_not_extracted
    assert 30.0 <= queried[-1]
    assert expected_texts(user, 3) == texts(spectron, user)
    (line,) = store_at(tmp_path / "state").lines("review/refused.jsonl")
    assert "stored without passage" == json.loads(line)["reason"]
    assert f"{user}-0001" == json.loads(line)["id"]


@pytest.mark.parametrize(("answer", "writes"), [("present", 0), ("absent", 1)])
def test_a_text_without_a_passage_is_written_again_only_if_a_person_says_so(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Literal["present", "absent"],
    writes: int,
) -> None:
    dump, mapping = (
        write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)]),
        mapping_file(tmp_path, NONE),
    )

    def run(choose: Any = lambda seen: "none", **resolve: Any) -> list[Seen]:
        with misbehaving(spectron.base_url, choose) as proxy:
            replay_in_no_time(
                spectron,
                tmp_path / "state",
                dump,
                endpoint=proxy.base_url,
                mapping=mapping,
                options=ReplayOptions(**resolve),
            )
            return [seen for seen in proxy.seen if seen.writes_fact]

    with monkeypatch.context() as blind:
        forged(blind, lambda seen, _: b'{"tier":"full","hits":[]}' if seen.path.endswith("/query") else None)
        run(lambda seen: "cut_after" if is_write(seen) and b"number 1" in seen.body else "none")
    assert [] == run()
    assert [] == run(retry_failed=True)
    assert writes == len(run(resolve={f"{user}-0001": answer}))
    assert [] == run()
    (fact,) = [fact for fact in ledger_facts(tmp_path / "state") if fact["mem0_id"] == f"{user}-0001"]
    assert "written" == fact["state"]
    assert writes == len(fact["residue"])
    assert 3 + writes == len(texts(spectron, user))
