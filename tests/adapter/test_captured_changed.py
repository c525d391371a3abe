"""Captured messages whose memories were changed, or became somebody else's, before they were delivered."""

from __future__ import annotations

import pytest

from spectron_migrate.adapter.call_results import messages_of
from tests.adapter.drains import (
    BEFORE,
    BOTH,
    NOW_ROME,
    Drains,
    captures,
    drained_through,
    from_spectron,
    refuses,
    says,
    stores,
    tell,
)
from tests.adapter.extracting import Extracting
from tests.adapter.support import Stage, judged, turns
from tests.support import oracle
from tests.support.proxy import misbehaving
from tests.support.spectron import replay

pytestmark = pytest.mark.slow


def test_what_a_memory_says_beyond_the_message_that_changed_it_is_found(drains: Drains) -> None:
    """Mem0 merges what is said into what it knows, and the earlier message is hidden for its old text."""
    stage, made = drains.stage, captures(drains, "I love cheese pizza")
    drains.drain()
    both = "I love pizza with cheese and with chicken"
    says(drains, "And with chicken", stores(drains, ("UPDATE", made[0], both), ("ADD", "", "Eats meat")))
    drains.drain()
    stage.shift(100)
    found = from_spectron(stage.adapter(Extracting(stage.mem0)), stage, "cheese")
    assert {BEFORE, both, "Eats meat"} == set(found)
    assert [BEFORE, "I love cheese pizza", both, "Eats meat"] == turns(stage)
    judged(stage)


def test_a_message_of_which_a_row_before_took_hold_loses_no_other(drains: Drains) -> None:
    one, two = stores(drains, ("ADD", "", "I moved to Rome"), ("ADD", "", "My dog is called Bo"))
    gone = stores(drains, ("DELETE", one["id"], "I moved to Rome"))
    says(drains, NOW_ROME, [one, *gone, two])
    drains.drain()
    assert [BEFORE, "My dog is called Bo"] == turns(drains.stage)
    judged(drains.stage)


def test_an_older_text_that_an_overlapping_call_told_late_is_mended_by_reading(
    drains: Drains,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it tells waits behind another call's, so that both are drained as of the first."""
    rounds = drains.stage.rounds()
    monkeypatch.setattr(drains.stage, "rounds", lambda: rounds)  # the same process reads again and again
    (told,) = stores(drains, ("ADD", "", "I live in Oslo"))
    says(drains, "Waits", stores(drains, ("ADD", "", "Waits")))
    drains.stage.mem0.update(told["id"], "I live in Rome")
    drains.stage.read()
    says(drains, "I live in Oslo", [told])
    drains.drain()
    assert drains.stage.reconcile()
    assert "I live in Rome" == turns(drains.stage)[-1]
    judged(drains.stage)


def plans_and_dies(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever drains plans, and dies before anything leaves."""

    async def dead(*_: object) -> int:
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(drains._drainer, "_deliver", dead)
        drains.drain()


async def nap(_: float) -> None:
    """In place of waiting."""


def gives(stage: Stage, memory: str, user: str) -> None:
    """Behind everybody's back a memory becomes another user's in Mem0's store."""
    store = stage.mem0.vector_store
    store.client.set_payload(store.collection_name, payload={"user_id": user}, points=[memory])


def lying(stage: Stage) -> dict[str, str]:
    """Where each text of the stage's users lies."""
    found = oracle.server_turns(stage.server.database)
    return {turn.text: path for turn in found for path in turn.paths if path.startswith(f"user/{stage.user}")}


def test_what_is_anothers_before_its_message_left_lies_where_it_belongs(
    drains: Drains,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, made = drains.stage, captures(drains)
    plans_and_dies(drains, monkeypatch)
    gives(stage, made[0], f"{stage.user}-2")
    stage.read()
    mine, other = f"user/{stage.user}", f"user/{stage.user}-2"
    assert {BEFORE: mine, "I moved to Berlin": other, "My cat is called Ada": mine} == lying(stage)
    judged(stage)


def test_what_is_anothers_before_its_message_is_refused_lies_where_it_belongs(drains: Drains) -> None:
    stage, made = drains.stage, captures(drains)
    drained_through(drains, refuses(BOTH))
    gives(stage, made[0], f"{stage.user}-2")
    stage.read()
    mine, other = f"user/{stage.user}", f"user/{stage.user}-2"
    assert {BEFORE: mine, "I moved to Berlin": other, "My cat is called Ada": mine} == lying(stage)
    judged(stage)


def test_what_is_anothers_before_its_message_in_doubt_is_refused_is_not_sent_where_it_was(
    drains: Drains,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, made = drains.stage, captures(drains)
    monkeypatch.setattr(drains._drainer, "_sleep", nap)
    drained_through(drains, lambda seen: "cut_before" if seen.writes_fact else "none")
    gives(stage, made[0], f"{stage.user}-2")
    with misbehaving(stage.server.base_url, refuses(BOTH)) as proxy, monkeypatch.context() as patched:
        patched.setattr(stage.server, "base_url", proxy.base_url)
        stage.read()
    drains.drain()
    mine, other = f"user/{stage.user}", f"user/{stage.user}-2"
    assert {BEFORE: mine, "My cat is called Ada": mine} == lying(stage)
    stage.read()
    assert {BEFORE: mine, "I moved to Berlin": other, "My cat is called Ada": mine} == lying(stage)
    judged(stage)


def test_a_message_that_waits_is_not_sent_where_an_earlier_mapping_had_it(
    drains: Drains,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = drains.stage
    diary = {"user_id": stage.user, "metadata": {"kind": "diary"}}
    answer = Extracting(stage.mem0).add(BOTH, **diary)
    tell(drains, messages_of("add", {"messages": BOTH, **diary}, answer) or [])
    plans_and_dies(drains, monkeypatch)
    stage.mapping = stage.folder / "diary.yaml"
    stage.mapping.write_text(
        "version: 1\nrules:\n"
        '  - {when: {metadata.kind: diary, user_id: "*"}, scope: {user: "{user_id}", of: diary}}\n'
        '  - {when: {user_id: "*"}, scope: {user: "{user_id}"}}\n'
    )
    replay(stage.server, stage.state, [stage.folder / "dump"], mapping=stage.mapping)  # of a reading before it was said
    assert [BEFORE] == turns(stage)
    stage.read()
    assert {f"user/{stage.user}/of/diary"} == set(lying(stage).values()) - {f"user/{stage.user}"}
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(stage)
