"""Holes that were looked for in `capture: messages`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from spectron_migrate import NotInSpectron
from spectron_migrate.adapter.call_results import messages_of
from spectron_migrate.errors import LedgerLocked
from spectron_migrate.ledger import Ledger, decisions, plan
from spectron_migrate.ledger.read import cutover, plans
from spectron_migrate.ledger.schema import marks
from spectron_migrate.state.call_log import CallResult
from spectron_migrate.verify.keywords import words_of
from spectron_migrate.verify.options import VerifyOptions
from tests.adapter.extracting import Extracting
from tests.adapter.support import Stage, ids, stamp, texts
from tests.adapter.test_draining import Drains, drains  # noqa: F401 - a fixture
from tests.adapter.test_messages import (
    BEFORE,
    BOTH,
    added,
    captures,
    drained_through,
    from_spectron,
    mine,
    refuses,
    tell,
)
from tests.adapter.test_messages_verified import Asked
from tests.adapter.test_outbox import begun, judged, turns
from tests.support import oracle
from tests.support.ledgers import facts_of
from tests.support.proxy import misbehaving
from tests.support.spectron import replay
from tests.support.waiting import wait_until
from tests.verify.support import verify

NOW_ROME = "I moved to Rome. My dog is called Bo"


def stores(drains: Drains, *made: tuple[str, str, str]) -> list[dict[str, Any]]:  # noqa: F811 - a fixture
    """What Mem0 did for one message, event by event, as it answers: a text under an id, or a new one."""
    mem0, user = drains.stage.mem0, drains.stage.user
    rows = []
    for event, mem0_id, text in made:
        if event == "ADD":
            mem0_id = str(mem0.add(text, infer=False, user_id=user)["results"][0]["id"])
        elif event == "UPDATE":
            mem0.update(mem0_id, text)
        else:
            mem0.delete(mem0_id)
        rows.append({"id": mem0_id, "memory": text, "event": event})
    return rows


def says(drains: Drains, text: str, rows: Sequence[dict[str, Any]]) -> None:  # noqa: F811
    """The application said it, and this is what Mem0 made of it."""
    given = {"messages": text, "user_id": drains.stage.user}
    tell(drains, messages_of("add", given, {"results": list(rows)}) or [])


# -- a message changes what an earlier one said -----------------------------------------------------------------


def test_what_a_memory_says_beyond_the_message_that_changed_it_is_found(drains: Drains) -> None:  # noqa: F811
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


def test_a_message_of_which_a_row_before_took_hold_loses_no_other(drains: Drains) -> None:  # noqa: F811
    one, two = stores(drains, ("ADD", "", "I moved to Rome"), ("ADD", "", "My dog is called Bo"))
    gone = stores(drains, ("DELETE", one["id"], "I moved to Rome"))
    says(drains, NOW_ROME, [one, *gone, two])
    drains.drain()
    assert [BEFORE, "My dog is called Bo"] == turns(drains.stage)
    judged(drains.stage)


def test_an_older_text_that_an_overlapping_call_told_late_is_mended_by_reading(
    drains: Drains,  # noqa: F811
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


# -- what belongs elsewhere by now --------------------------------------------------------------------------------


def plans_and_dies(drains: Drains, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
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
    drains: Drains,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, made = drains.stage, captures(drains)
    plans_and_dies(drains, monkeypatch)
    gives(stage, made[0], f"{stage.user}-2")
    stage.read()
    mine, other = f"user/{stage.user}", f"user/{stage.user}-2"
    assert {BEFORE: mine, "I moved to Berlin": other, "My cat is called Ada": mine} == lying(stage)
    judged(stage)


def test_what_is_anothers_before_its_message_is_refused_lies_where_it_belongs(drains: Drains) -> None:  # noqa: F811
    stage, made = drains.stage, captures(drains)
    drained_through(drains, refuses(BOTH))
    gives(stage, made[0], f"{stage.user}-2")
    stage.read()
    mine, other = f"user/{stage.user}", f"user/{stage.user}-2"
    assert {BEFORE: mine, "I moved to Berlin": other, "My cat is called Ada": mine} == lying(stage)
    judged(stage)


def test_what_is_anothers_before_its_message_in_doubt_is_refused_is_not_sent_where_it_was(
    drains: Drains,  # noqa: F811
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
    drains: Drains,  # noqa: F811
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


# -- what an application hands over ---------------------------------------------------------------------------------

WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are kind"},
    {"role": "user", "content": "What is my balance?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "tool_call_id": "1", "content": '{"iban": "DE00"}'},
    {"role": "assistant", "content": "You have 3 euros"},
]


def test_what_a_tool_answered_nobody_said() -> None:
    (message, _) = messages_of("add", {"messages": WITH_TOOLS, "user_id": "ada"}, added("Has 3 euros")) or []
    assert "user: What is my balance?\nassistant: You have 3 euros" == message.text


def test_once_spectron_is_the_truth_what_a_tool_answered_is_nobodys_memory(stage: Stage) -> None:
    stage.start()
    stage.step("complete")
    adapter = stage.adapter()
    assert ["What is my balance?", "You have 3 euros"] == texts(adapter.add(WITH_TOOLS, user_id=stage.user))
    assert ["What is my balance?", "You have 3 euros"] == turns(stage)


@pytest.mark.parametrize("value", [datetime(2026, 11, 22, tzinfo=UTC), float("nan")], ids=["time", "no number"])
@pytest.mark.parametrize("capture", ["memories", "messages"])
def test_metadata_that_is_no_json_fails_no_call_and_is_found_by_reading(
    stage: Stage, capture: str, value: object
) -> None:
    begun(stage, capture=capture)
    adapter = stage.adapter(Extracting(stage.mem0))
    made = ids(adapter.add(BOTH, user_id=stage.user, metadata={"at": value}))
    assert 2 == len(made)
    assert stage.reconcile()
    assert [BEFORE, "I moved to Berlin", "My cat is called Ada"] == turns(stage)
    judged(stage)


def test_what_no_ledger_could_be_asked_about_is_not_kept(drains: Drains) -> None:  # noqa: F811
    """SQLite calls a record with a NaN malformed, and whoever looks for what Mem0 has deleted would fail over it."""
    told = CallResult("ADD", "m", "I like tea", {"user_id": drains.stage.user, "metadata": {"at": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        tell(drains, [told])
    assert () == drains.outbox.batch(9, drains.now).results


def test_once_spectron_is_the_truth_metadata_that_is_no_json_fails_no_call(stage: Stage) -> None:
    stage.start()
    stage.step("complete")
    adapter = stage.adapter()
    (made,) = ids(adapter.add("I like tea", user_id=stage.user, metadata={"at": datetime(2026, 11, 22, tzinfo=UTC)}))
    assert {"at": "2026-11-22 00:00:00+00:00"} == adapter.get(made)["metadata"]


# -- texts that no receipt names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("infer", [True, False], ids=["message", "memories"])
def test_a_short_text_that_the_turns_decided_is_found_and_once_deleted_hidden_for_good(
    drains: Drains,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    infer: bool,
) -> None:
    stage = drains.stage
    monkeypatch.setattr(drains._drainer, "_sleep", nap)
    given = {"messages": "Cat Ada. Dog Bo", "user_id": stage.user, "infer": infer}
    made = Extracting(stage.mem0).add("Cat Ada. Dog Bo", user_id=stage.user)
    tell(drains, messages_of("add", given, made) or [])
    drained_through(drains, lambda seen: "500_after_released" if seen.writes_fact else "none")
    drains.drain()
    stage.shift(100)
    adapter = stage.adapter(Extracting(stage.mem0))
    assert {"Cat Ada", "Dog Bo", BEFORE} == set(from_spectron(adapter, stage, "Cat Ada Dog Bo"))
    for memory in ids(made):
        stage.mem0.delete(memory)
    stage.step("closing")
    assert stage.reconcile()
    stage.step("complete")
    assert [BEFORE] == texts(adapter.search("Cat Ada Dog Bo", **mine(stage)))
    again = adapter.add("Dog Bo", user_id=stage.user)
    assert {BEFORE, "Dog Bo"} == set(texts(adapter.search("Cat Ada Dog Bo", **mine(stage))))
    assert ids(again)[0] in ids(adapter.search("Dog Bo", **mine(stage)))


def resolves(stage: Stage, made: list[str]) -> bool:
    """A person says that what nothing could decide is there; False while an adapter's worker has the ledger."""
    of_these = (
        "id IN (SELECT version.id FROM version JOIN memory ON memory.mem0_id = version.mem0_id"
        f" WHERE is_message = 1 OR version.mem0_id IN ({marks(made)}))"
    )
    with suppress(LedgerLocked), Ledger.open_for_writing(stage.state) as ledger, ledger.transaction() as db:
        db.execute(f"UPDATE fact SET state = 'undecidable' WHERE state != 'skipped' AND {of_these}", made)
        db.execute("DELETE FROM receipt WHERE fact IN (SELECT id FROM fact WHERE state = 'undecidable')")
        db.execute("DELETE FROM extracted WHERE fact IN (SELECT id FROM fact WHERE state = 'undecidable')")
        rows = facts_of(ledger, "fact.state = 'undecidable'")
        return {None} == {decisions.resolve(ledger, row["mem0_id"], present=True, now=stamp()) for row in rows}
    return False


@pytest.mark.parametrize("infer", [True, False], ids=["message", "memories"])
def test_what_a_person_says_is_there_is_found_without_a_receipt(drains: Drains, infer: bool) -> None:  # noqa: F811
    stage = drains.stage
    given = {"messages": BOTH, "user_id": stage.user, "infer": infer}
    answer = Extracting(stage.mem0).add(BOTH, user_id=stage.user)
    tell(drains, messages_of("add", given, answer) or [])
    drains.drain()
    stage.shift(100)
    adapter = stage.adapter(Extracting(stage.mem0))
    assert {"I moved to Berlin", "My cat is called Ada", BEFORE} == set(from_spectron(adapter, stage, "Berlin cat"))
    wait_until(lambda: resolves(stage, ids(answer)))
    assert {"I moved to Berlin", "My cat is called Ada", BEFORE} == set(from_spectron(adapter, stage, "Berlin cat"))
    stage.step("closing")
    assert stage.reconcile()
    stage.step("complete")
    assert {*ids(answer)} < {*ids(adapter.search("Berlin cat", **mine(stage)))}
    assert {*ids(answer)} < {*ids(adapter.get_all(**mine(stage)))}


def test_a_message_is_no_memory_that_could_be_asked_for(drains: Drains) -> None:  # noqa: F811
    stage, made = drains.stage, captures(drains)
    drains.drain()
    stage.mem0.delete(made[0])
    stage.step("closing")
    assert stage.reconcile()
    stage.step("complete")
    (message,) = {fact["mem0_id"] for fact in oracle.ledger_facts(stage.state) if fact["is_message"]}
    for method in ("get", "history"):
        with pytest.raises(NotInSpectron):
            getattr(stage.adapter(Extracting(stage.mem0)), method)(message)


def test_of_a_message_the_memories_are_named_that_will_not_expire(drains: Drains) -> None:  # noqa: F811
    given = {"user_id": drains.stage.user, "expiration_date": "2999-01-01"}
    answer = Extracting(drains.stage.mem0).add(BOTH, **given)
    tell(drains, messages_of("add", {"messages": BOTH, **given}, answer) or [])
    drains.drain()
    with Ledger.open_for_reading(drains.stage.state) as ledger:
        (number, _) = plan.last_plan(ledger) or (0, "")
        assert sorted(ids(answer)) == plans.will_not_expire(ledger, number)
        assert set(ids(answer)) == set(cutover.will_not_expire([ledger]))


def test_who_asks_for_one_memory_is_shown_the_one_of_its_message(drains: Drains) -> None:  # noqa: F811
    stage, made = drains.stage, captures(drains)
    drains.drain()
    stage.shift(100)
    adapter = stage.adapter(Extracting(stage.mem0))
    asked = {"What is my cat called?": made[1], "Where did I move to?": made[0]}
    for query, memory in asked.items():
        assert memory == ids(adapter.search(query, filters={"user_id": stage.user}, top_k=1))[0]
    assert 2 == adapter._core.counters.snapshot()["reads"]["spectron"]


# -- what verification asks --------------------------------------------------------------------------------------------


def test_recall_is_asked_in_the_words_that_mem0_has_of_a_message(drains: Drains) -> None:  # noqa: F811
    """In those of the message itself, which only Spectron holds, it could but win."""
    said = {"Zanzibar quokka": "Plays the cello", "Xylophone quartz": "Keeps two bees"}
    for message, memory in said.items():
        says(drains, message, stores(drains, ("ADD", "", memory)))
    drains.drain()
    stage = drains.stage
    stage.read()
    summary = verify(stage.server, stage.state, [stage.folder / "dump"], VerifyOptions(), mem0=Asked(stage.mem0))
    asked = {word for answer in summary.report["answers"] for word in words_of(answer["query"])}
    assert {"cello", "plays", "bees", "keeps"} <= asked
    assert asked.isdisjoint({"zanzibar", "quokka", "xylophone", "quartz"})
