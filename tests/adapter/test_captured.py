"""`capture: messages`: what the application says is written in place of what Mem0 makes of it, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spectron_migrate.adapter.call_results import messages_of
from spectron_migrate.dump import open_dump
from spectron_migrate.ledger import Ledger, erasing, plan
from spectron_migrate.ledger.read import cutover, plans
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.reporter import NullReporter
from spectron_migrate.state.call_log import CallResult
from tests.adapter.drains import (
    BEFORE,
    BOTH,
    Drains,
    captures,
    drained_by,
    drained_through,
    from_spectron,
    mine,
    refuses,
    tell,
)
from tests.adapter.extracting import Extracting
from tests.adapter.support import Stage, followed, ids, judged, stamp, texts, turns
from tests.support import oracle
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def said(stage: Stage, text: str = BOTH) -> tuple[Any, list[str]]:
    """An adapter whose cutover captures messages, and the ids of what Mem0 made of one that is in Spectron."""
    followed(stage, capture="messages")
    adapter = stage.adapter(Extracting(stage.mem0))
    made = ids(adapter.add(text, user_id=stage.user))
    wait_until(lambda: text in turns(stage))
    stage.shift(100)
    return adapter, made


def privately(stage: Stage) -> set[str]:
    """Memories that Mem0 has let go of and whose texts Spectron still holds."""
    with Ledger.open_for_reading(stage.state) as ledger:
        return {left.mem0_id for left in cutover.stale_texts(ledger)}


# -- what becomes of it -------------------------------------------------------------------------------------


def test_one_turn_holds_all_that_mem0_made_of_a_message(stage: Stage) -> None:
    adapter, made = said(stage)
    assert {"I moved to Berlin", "My cat is called Ada"} == set(from_spectron(adapter, stage, "Berlin cat Ada")[:2])
    assert set(made) == set(ids(adapter.search("Berlin cat Ada", **mine(stage)))[:2])
    assert stage.reconcile()
    assert [BEFORE, BOTH] == turns(stage)
    judged(stage)


def test_a_deleted_memory_is_hidden_and_the_others_of_its_message_are_not(stage: Stage) -> None:
    adapter, made = said(stage)
    adapter.delete(made[0])
    found = from_spectron(adapter, stage, "Berlin cat Ada")
    assert "My cat is called Ada" in found
    assert "I moved to Berlin" not in found
    assert {made[0]} == privately(stage)
    adapter.delete(made[1])
    assert [BEFORE] == from_spectron(adapter, stage, "Berlin cat Ada")
    assert set(made) == privately(stage)
    assert stage.reconcile()
    judged(stage)


def test_an_edited_memory_leaves_its_message_with_a_text_of_its_own(stage: Stage) -> None:
    adapter, made = said(stage)
    adapter.update(made[0], text="I moved to Rome")
    wait_until(lambda: "I moved to Rome" in turns(stage))
    found = from_spectron(adapter, stage, "Berlin Rome cat Ada")
    assert {BEFORE, "I moved to Rome", "My cat is called Ada"} == set(found)
    assert stage.reconcile()
    assert [BEFORE, BOTH, "I moved to Rome"] == turns(stage)
    judged(stage)


def test_a_deletion_past_the_adapter_is_found_by_reconciling(stage: Stage) -> None:
    adapter, made = said(stage)
    stage.mem0.delete(made[1])
    assert stage.reconcile()
    assert "My cat is called Ada" not in from_spectron(adapter, stage, "Berlin cat Ada")
    judged(stage)


def test_once_spectron_is_the_truth_each_memory_is_known_by_its_id(stage: Stage) -> None:
    adapter, made = said(stage)
    stage.step("closing")
    assert stage.reconcile()
    stage.step("complete")
    assert ["I moved to Berlin", "My cat is called Ada"] == [adapter.get(each)["memory"] for each in made]
    assert {BEFORE, "I moved to Berlin", "My cat is called Ada"} == set(texts(adapter.get_all(**mine(stage))))
    assert ["I moved to Berlin"] == [event["new_memory"] for event in adapter.history(made[0])]
    assert "My cat is called Ada" in texts(adapter.search("my cat", **mine(stage)))


# -- step by step -------------------------------------------------------------------------------------------


def test_what_is_deleted_before_its_message_left_never_leaves(drains: Drains) -> None:
    made = captures(drains)
    tell(drains, [CallResult("DELETE", made[0])])
    drains.stage.mem0.delete(made[0])
    drains.drain()
    assert [BEFORE, "My cat is called Ada"] == turns(drains.stage)
    assert drains.stage.reconcile()
    judged(drains.stage)


def test_a_message_that_the_server_refuses_is_written_memory_by_memory(drains: Drains) -> None:
    captures(drains)
    first = drained_through(drains, refuses(BOTH))
    assert {drains.stage.user} == first.behind
    second = drains.drain()
    assert set() == second.behind
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(drains.stage)
    assert drains.stage.reconcile()
    judged(drains.stage)


def test_a_reading_of_mem0_that_was_faster_leaves_nothing_to_the_message(drains: Drains) -> None:
    captures(drains)
    drains.stage.read()
    drains.drain()
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(drains.stage)
    judged(drains.stage)


def test_rows_that_are_drained_twice_are_written_once(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    captures(drains)
    with monkeypatch.context() as patched:  # whoever planned them died before it could say so
        patched.setattr(drains.outbox, "delivered", lambda *_: None)
        drains.drain()
    drains.drain()
    assert [BEFORE, BOTH] == turns(drains.stage)
    assert drains.stage.reconcile()
    judged(drains.stage)


def test_an_added_and_edited_memory_of_an_empty_mem0_is_planned(stage: Stage) -> None:
    """Captures name a memory more than once, also where the ledger knows none yet."""
    stage.write_settings(catch_up="outbox")
    stage.start("outbox")
    stage.catch_up()
    stage.follow()
    adapter = stage.adapter()
    made = ids(adapter.add("I live in Berlin", user_id=stage.user, infer=False))[0]
    adapter.update(made, text="I live in Rome")
    wait_until(lambda: "I live in Rome" in turns(stage))
    assert stage.reconcile()
    judged(stage)


def test_a_new_plan_of_everything_writes_nothing_of_it_again(drains: Drains) -> None:
    made = captures(drains)
    drains.drain()
    stage = drains.stage
    stage.catch_up()
    labelled = stage.folder / "labelled.yaml"
    labelled.write_text(
        'version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\nlabels: {moved: "yes"}\n'
    )

    async def run() -> None:
        async with stage.api() as api:
            with open_dump(stage.folder / "dump") as dump:
                mapping = load_mapping(labelled)
                await Replay(stage.state, dump, mapping, ReplayOptions(), reporter=NullReporter()).run(api)

    asyncio.run(run())
    assert [BEFORE, BOTH] == turns(stage)
    assert 2 == len(made)


def test_a_message_that_was_erased_does_not_bring_back_what_mem0_let_go_of(drains: Drains) -> None:
    made = captures(drains)
    drains.drain()
    tell(drains, [CallResult("DELETE", made[0])])
    drains.drain()
    stage = drains.stage
    with Ledger.open_for_writing(stage.state) as ledger, ledger.transaction():
        erasing.begin(ledger, f"user/{stage.user}", now=stamp())
        erasing.finish(ledger, f"user/{stage.user}", now=stamp())
    facts = {fact["mem0_id"]: fact for fact in oracle.ledger_facts(stage.state)}
    assert "skipped" == facts[made[0]]["state"]
    assert "planned" == facts[made[1]]["state"]
    assert {"its memories are written instead"} == {fact["reason"] for fact in facts.values() if fact["is_message"]}


def test_a_message_whose_memories_the_mapping_tells_apart_is_not_written(drains: Drains) -> None:
    stage = drains.stage
    apart = stage.folder / "apart.yaml"
    apart.write_text(
        "version: 1\nrules:\n"
        '  - {when: {user_id: "*", role: assistant}, scope: {user: "{user_id}", said: by-us}}\n'
        '  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}\n'
    )
    drains._drainer._mapping = mapping = load_mapping(apart)
    with Ledger.open_for_writing(stage.state) as ledger, ledger.transaction() as db:
        db.execute("UPDATE migration SET mapping_digest = ?", (mapping.digest,))
    answer = Extracting(stage.mem0).add(BOTH, user_id=stage.user)
    answer["results"][1]["role"] = "assistant"
    tell(drains, messages_of("add", {"messages": BOTH, "user_id": stage.user}, answer) or [])
    drained_by(drains._drainer, stage)
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(stage)


def test_of_a_message_the_memories_are_named_that_will_not_expire(drains: Drains) -> None:
    given = {"user_id": drains.stage.user, "expiration_date": "2999-01-01"}
    answer = Extracting(drains.stage.mem0).add(BOTH, **given)
    tell(drains, messages_of("add", {"messages": BOTH, **given}, answer) or [])
    drains.drain()
    with Ledger.open_for_reading(drains.stage.state) as ledger:
        (number, _) = plan.last_plan(ledger) or (0, "")
        assert sorted(ids(answer)) == plans.will_not_expire(ledger, number)
        assert set(ids(answer)) == set(cutover.will_not_expire(ledger))
