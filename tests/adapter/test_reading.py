"""Where a search is answered, and in which form, with a real Mem0 and a real local Spectron."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from spectron_migrate.adapter import writes
from spectron_migrate.errors import InputError
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.routing import FILE
from tests.adapter.support import Stage, ids, stamp, texts

pytestmark = pytest.mark.slow

TEA = "Prefers green tea over coffee in the morning"
TRIP = "Is planning a trip to Lisbon in the spring"


def reads(stage: Stage, adapter: Any) -> dict[str, int]:
    return dict(stage.overview(adapter).reads)


def test_without_a_cutover_everything_is_mem0s_own(stage: Stage) -> None:
    adapter = stage.adapter()
    adapter.add(TEA, user_id=stage.user, infer=False)
    mine = {"filters": {"user_id": stage.user}}
    assert stage.mem0.search("tea", **mine) == adapter.search("tea", **mine)
    assert stage.mem0.get_all(**mine) == adapter.get_all(**mine)
    assert not stage.state.exists()


def test_a_search_is_answered_by_spectron_in_mem0s_form(stage: Stage) -> None:
    tea = stage.say(TEA, metadata={"kind": "taste"}, agent_id="cook", run_id="r1")
    stage.say(TRIP)
    adapter = stage.adapter()
    stage.to_spectron()
    asked: dict[str, Any] = {"filters": {"user_id": stage.user}, "top_k": 1}
    by_mem0, by_spectron = stage.mem0.search("green tea", **asked), adapter.search("green tea", **asked)
    assert {"results"} == set(by_spectron)
    told, meant = by_spectron["results"][0], by_mem0["results"][0]
    assert tea == told["id"]
    assert isinstance(told.pop("score"), float)
    meant.pop("score")
    assert meant == told
    assert 1 == reads(stage, adapter)["spectron"]


def test_both_generations_of_a_call_are_answered(stage: Stage) -> None:
    tea = stage.say(TEA)
    adapter = stage.adapter()
    newer = {"filters": {"user_id": stage.user}, "top_k": 1}
    older = {"user_id": stage.user, "limit": 1}
    assert [tea] == ids(adapter.search("green tea", **newer)) == ids(adapter.search("green tea", **older))
    stage.to_spectron()
    assert [tea] == ids(adapter.search("green tea", **newer)) == ids(adapter.search(query="green tea", **older))
    assert [tea] == ids(adapter.get_all(user_id=stage.user))


def test_an_agents_search_sees_the_agents_memories_alone(stage: Stage) -> None:
    stage.say(TEA)
    cooks = stage.say("Cooks with green tea leaves", agent_id="cook")
    adapter = stage.adapter()
    stage.to_spectron()
    found = adapter.search("green tea", filters={"user_id": stage.user, "agent_id": "cook"})
    assert [cooks] == ids(found)
    assert 2 == len(ids(adapter.search("green tea", filters={"user_id": stage.user})))


def test_a_run_keeps_its_own_memories(stage: Stage) -> None:
    stage.say(TEA, run_id="monday")
    tuesday = stage.say("Drank black tea", run_id="tuesday")
    adapter = stage.adapter()
    stage.to_spectron()
    assert [tuesday] == ids(adapter.search("tea", filters={"user_id": stage.user, "run_id": "tuesday"}))
    assert 1 <= reads(stage, adapter)["run_filtered"]


def test_what_is_hidden_does_not_crowd_out_what_mem0_would_show(stage: Stage) -> None:
    """Spectron gives 50 hits; where those of other runs fill them, Mem0 answers."""
    for number in range(50):
        stage.say(f"Drinks green tea, cup {number}", run_id="monday")
    tuesday = stage.say("Drinks water on the road, no tea there at all", run_id="tuesday")
    adapter = stage.adapter()
    stage.to_spectron()
    assert [tuesday] == ids(adapter.search("drinks green tea", filters={"user_id": stage.user, "run_id": "tuesday"}))
    assert {"crowded": 1} == reads(stage, adapter)


def test_replaced_and_deleted_memories_are_hidden(stage: Stage) -> None:
    moved = stage.say("Lives in Berlin, near the river")
    gone = stage.say("Lives with two cats near the river")
    stage.start()
    stage.catch_up()
    stage.mem0.update(moved, text="Lives in Lisbon, near the river")
    stage.mem0.delete(gone)
    stage.catch_up()
    stage.shift(100)
    adapter = stage.adapter()
    found = adapter.search("lives near the river", filters={"user_id": stage.user})
    assert ["Lives in Lisbon, near the river"] == texts(found)
    assert [moved] == ids(found)
    assert reads(stage, adapter)["stale"] >= 2


def test_a_text_that_differs_by_next_to_nothing_from_an_older_one_is_found(stage: Stage) -> None:
    """Spectron hides near-duplicates behind the oldest of them, and that one may be hidden here for being old."""
    changed = stage.say("Meets the choir on Thursdays, at eight")
    stage.start()
    stage.catch_up()
    stage.mem0.update(changed, text="Meets the Choir on Thursdays at eight!")
    twin = stage.say("meets the choir on thursdays at eight")
    stage.catch_up()
    stage.shift(100)
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    assert {changed, twin} == set(ids(stage.mem0.search("choir on Thursdays", **mine)))
    assert {changed, twin} == set(ids(adapter.search("choir on Thursdays", **mine)))
    assert 1 == reads(stage, adapter)["spectron"]


def test_a_memory_that_is_somebody_elses_by_now_is_hidden(stage: Stage) -> None:
    """It lies where it was sent; Mem0 would no longer show it here."""
    moved = stage.say("Drinks green tea with milk")
    kept = stage.say(TEA)
    stage.start()
    stage.catch_up()
    store = stage.mem0.vector_store
    store.client.set_payload(store.collection_name, payload={"user_id": f"{stage.user}-2"}, points=[moved])
    stage.catch_up()
    stage.shift(100)
    adapter = stage.adapter()
    found = adapter.search("green tea", filters={"user_id": stage.user})
    assert [kept] == ids(found) == ids(stage.mem0.search("green tea", filters={"user_id": stage.user}))


def test_an_expired_memory_is_hidden(stage: Stage) -> None:
    lasting = stage.say("Parks the car in the north garage")
    stage.say("Parks the car in the south garage", expiration_date="2999-01-01")
    adapter = stage.adapter()
    stage.to_spectron()
    assert 2 == len(ids(adapter.search("parks the car", filters={"user_id": stage.user})))
    from spectron_migrate.adapter import core

    class Later(core.datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return core.datetime(2999, 1, 2, tzinfo=zone)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core, "datetime", Later)
        assert [lasting] == ids(adapter.search("parks the car", filters={"user_id": stage.user}))


def test_a_long_memory_comes_once_and_whole(stage: Stage) -> None:
    long = " ".join(
        f"Chapter {number} of the novel is about a lighthouse keeper and storm {number}." for number in range(80)
    )
    told = stage.say(long)
    stage.say(TEA)
    adapter = stage.adapter()
    stage.to_spectron()
    found = adapter.search("lighthouse keeper storm 70", filters={"user_id": stage.user})
    assert told == ids(found)[0]
    assert long == texts(found)[0]
    assert 1 == ids(found).count(told)


@pytest.mark.parametrize("narrower", [{"threshold": 0.9}, {"filters": {"kind": "taste"}}, {"explain": True}])
def test_what_spectron_cannot_answer_is_mem0s_and_counted(stage: Stage, narrower: dict[str, Any]) -> None:
    stage.say(TEA, metadata={"kind": "taste"})
    adapter = stage.adapter()
    stage.to_spectron()
    filters = {"user_id": stage.user, **narrower.pop("filters", {})}
    assert stage.mem0.search("tea", filters=filters, **narrower) == adapter.search("tea", filters=filters, **narrower)
    seen = stage.overview(adapter)
    assert {"beyond": 1} == seen.reads
    assert [1] == list(seen.calls.values())
    assert next(iter(seen.calls)).startswith("search(")


def test_a_user_finds_what_they_just_said(stage: Stage) -> None:
    """Also from another process, and although the routing says that everything is in Spectron."""
    stage.say(TEA)
    stage.to_spectron()
    adapter, elsewhere = stage.adapter(), stage.adapter()
    adapter._core.heartbeat.begin()
    elsewhere._core.heartbeat.begin()
    for one in (adapter, elsewhere):
        one._core.heartbeat.beat()
        assert 1 == len(ids(one.search("green tea", filters={"user_id": stage.user})))
    said = ids(adapter.add("Now drinks oolong tea", user_id=stage.user, infer=False))[0]
    for one in (adapter, elsewhere):
        assert said in ids(one.search("oolong tea", filters={"user_id": stage.user}))
        assert 1 == one._core.counters.snapshot()["reads"]["behind"]
    stage.catch_up()
    assert said in ids(adapter.search("oolong tea", filters={"user_id": stage.user}))
    assert 2 == adapter._core.counters.snapshot()["reads"]["spectron"]


def test_what_a_call_stored_is_found_although_the_call_never_ends(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its process is killed: nobody is left to say that something was written."""
    stage.say(TEA)
    stage.to_spectron()
    adapter, elsewhere = stage.adapter(), stage.adapter()
    elsewhere._core.heartbeat.begin()
    add, found = stage.mem0.add, []

    def stored_and_looked_for(*args: Any, **kwargs: Any) -> Any:
        answer = add(*args, **kwargs)
        found.append((ids(answer)[0], ids(elsewhere.search("oolong tea", filters={"user_id": stage.user}))))
        return answer

    monkeypatch.setattr(stage.mem0, "add", stored_and_looked_for)
    adapter.add("Now drinks oolong tea", user_id=stage.user, infer=False)
    [(said, seen)] = found
    assert said in seen


def test_a_user_finds_what_they_just_said_by_a_clock_that_was_put_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that clock it is older than the reading of Mem0 that missed it."""
    stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    with monkeypatch.context() as patched:
        patched.setattr(writes, "time", SimpleNamespace(time=lambda: time.time() - 3600))
        said = ids(adapter.add("Now drinks oolong tea", user_id=stage.user, infer=False))[0]
    assert said in ids(adapter.search("oolong tea", filters={"user_id": stage.user}))
    assert 1 == adapter._core.counters.snapshot()["reads"]["behind"]


@pytest.mark.parametrize("change", ["update", "delete"])
def test_a_user_does_not_find_what_they_just_changed(stage: Stage, change: str) -> None:
    tea = stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    getattr(adapter, change)(tea, **({"text": "Drinks water"} if change == "update" else {}))
    assert TEA not in texts(adapter.search("green tea", filters={"user_id": stage.user}))


def test_changing_what_was_just_added_holds_nobody_else(stage: Stage) -> None:
    """The catalogue does not have it yet, and still it is known whose it is."""
    stage.say(TEA)
    other = f"{stage.user}-2"
    stage.say(TRIP, user_id=other)
    stage.to_spectron()
    adapter = stage.adapter()
    made = ids(adapter.add("Now drinks oolong tea", user_id=stage.user, infer=False))[0]
    adapter.update(made, text="Now drinks water")
    adapter.search("trip", filters={"user_id": other})
    assert {"spectron": 1} == reads(stage, adapter)
    adapter.search("water", filters={"user_id": stage.user})
    assert 1 == reads(stage, adapter)["behind"]


def test_spectron_being_down_costs_no_answer(own_stage: Stage) -> None:
    stage = own_stage
    tea = stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    assert [tea] == ids(adapter.search("green tea", **mine))
    stage.server.kill()
    for _ in range(5):
        assert [tea] == ids(adapter.search("green tea", **mine))
    seen = stage.overview(adapter)
    assert (1, 3, 2) == tuple(seen.reads[name] for name in ("spectron", "failed", "guarded"))
    assert seen.reports[0].guard.open
    assert "reads failed" in seen.reports[0].guard.reason


def test_without_a_key_mem0_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tea = stage.say(TEA)
    stage.to_spectron()
    monkeypatch.delenv("SPECTRON_API_KEY")
    adapter = stage.adapter()
    assert [tea] == ids(adapter.search("green tea", filters={"user_id": stage.user}))
    assert {"no catalogue": 1} == reads(stage, adapter)


def test_another_mapping_than_the_one_that_wrote_is_not_read_with(stage: Stage) -> None:
    tea = stage.say(TEA)
    stage.to_spectron()
    other = stage.folder / "other.yaml"
    other.write_text('version: 1\nrules: [{when: {user_id: "*"}, scope: {person: "{user_id}"}}]\n')
    adapter = stage.adapter(mapping=other)
    assert [tea] == ids(adapter.search("green tea", filters={"user_id": stage.user}))
    assert {"no catalogue": 1} == reads(stage, adapter)


def test_bad_settings_are_refused_when_the_application_starts(stage: Stage) -> None:
    (stage.folder / "spectron-migrate.yaml").write_text("version: 1\ncutovr: {}\n")
    with pytest.raises(InputError, match="cutovr"):
        stage.adapter()


def test_revert_is_in_force_within_a_second(stage: Stage) -> None:
    stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    adapter.search("green tea", **mine)
    record_step(stage.state, Step("revert", stamp(), "a test"))
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        adapter.search("green tea", **mine)
    before = reads(stage, adapter)["spectron"]
    adapter.search("green tea", **mine)
    assert before == reads(stage, adapter)["spectron"]


@pytest.mark.ledger_file  # a row is whole, and the journal decides
def test_a_broken_routing_leaves_the_last_good_one_and_is_told(stage: Stage) -> None:
    stage.say(TEA)
    stage.to_spectron()
    adapter = stage.adapter()
    mine = {"filters": {"user_id": stage.user}}
    adapter.search("green tea", **mine)
    (stage.state / FILE).write_text("{")
    stage.notice()
    adapter.search("green tea", **mine)
    seen = stage.overview(adapter)
    assert 2 == seen.reads["spectron"]
    assert "routing.json" in (seen.reports[0].routing_problem or "")


def test_other_calls_are_counted_by_method_and_filter(stage: Stage) -> None:
    tea = stage.say(TEA)
    adapter = stage.adapter()
    stage.start()
    adapter.get(tea)
    adapter.history(tea)
    adapter.get_all(filters={"user_id": stage.user})
    adapter.delete(memory_id=tea)
    adapter.delete_all(user_id=stage.user)
    counted = {"delete": 1, "delete_all(user_id)": 1, "get": 1, "get_all(user_id)": 1, "history": 1}
    assert counted == stage.overview(adapter).calls
    assert stage.mem0.config is adapter.config
