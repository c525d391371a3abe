"""Spectron's hits as Mem0's results: memories of messages, and texts that no receipt names."""

from __future__ import annotations

from contextlib import suppress

import pytest

from spectron_migrate import NotInSpectron
from spectron_migrate.adapter.call_results import messages_of
from spectron_migrate.errors import LedgerLocked
from spectron_migrate.ledger import Ledger, decisions
from spectron_migrate.ledger.schema import marks
from tests.adapter.drains import BEFORE, BOTH, Drains, captures, drained_through, from_spectron, mine, tell
from tests.adapter.extracting import Extracting
from tests.adapter.support import Stage, ids, stamp, texts
from tests.support import oracle
from tests.support.ledgers import facts_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


async def nap(_: float) -> None:
    """In place of waiting."""


@pytest.mark.parametrize("infer", [True, False], ids=["message", "memories"])
def test_a_short_text_that_the_turns_decided_is_found_and_once_deleted_hidden_for_good(
    drains: Drains,
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
def test_what_a_person_says_is_there_is_found_without_a_receipt(drains: Drains, infer: bool) -> None:
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


def test_a_message_is_no_memory_that_could_be_asked_for(drains: Drains) -> None:
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


def test_who_asks_for_one_memory_is_shown_the_one_of_its_message(drains: Drains) -> None:
    stage, made = drains.stage, captures(drains)
    drains.drain()
    stage.shift(100)
    adapter = stage.adapter(Extracting(stage.mem0))
    asked = {"What is my cat called?": made[1], "Where did I move to?": made[0]}
    for query, memory in asked.items():
        assert memory == ids(adapter.search(query, filters={"user_id": stage.user}, top_k=1))[0]
    assert 2 == adapter._core.counters.snapshot()["reads"]["spectron"]
