"""After `complete`: Spectron is the truth."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate import NotInSpectron
from spectron_migrate.adapter import core
from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.errors import InputError, Unreachable
from tests.adapter.drains import WITH_TOOLS
from tests.adapter.support import TEA, Stage, Untouchable, ids, texts, turns
from tests.support.proxy import Fault, Seen, gated, misbehaving
from tests.support.spectron import turns_of

pytestmark = pytest.mark.slow


def mine(stage: Stage) -> dict[str, Any]:
    return {"filters": {"user_id": stage.user}}


def forget_added(state: Path) -> None:
    """Nobody knows any more what was added after `complete`."""
    added = AddedMemories(state)
    tables = added._open(create=True)
    assert tables is not None
    tables.change(*((f"DELETE FROM {tables.prefix}{name}", [()]) for name in ("memory", "placed", "made")))
    added.close()


def test_mem0_is_asked_nothing_any_more(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    assert TEA == texts(adapter.search("green tea", **mine(done)))[0]
    told = adapter.add("Now drinks oolong tea", user_id=done.user, infer=False)
    assert "Now drinks oolong tea" in texts(adapter.search("oolong tea", **mine(done)))
    assert [("Now drinks oolong tea", "ADD")] == [(row["memory"], row["event"]) for row in told["results"]]
    assert "Now drinks oolong tea" in [turn.content for turn in turns_of(done.server, done.user)]


def test_a_user_finds_what_they_just_said_although_they_said_nearly_the_same_before(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    again = adapter.add(f"{TEA}!", user_id=done.user, infer=False)["results"][0]["id"]
    assert {TEA, f"{TEA}!"} <= set(texts(adapter.search("green tea", **mine(done))))
    assert again in ids(adapter.search("green tea", **mine(done)))
    adapter.close()
    forget_added(done.state)  # as on another host
    assert {TEA, f"{TEA}!"} <= set(texts(done.adapter(Untouchable()).search("green tea", **mine(done))))


def test_a_conversation_is_written_once_message_by_message(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    adapter.add(
        [
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "I moved to Porto"},
            {"role": "assistant", "content": "Porto it is"},
        ],
        user_id=done.user,
        run_id="r2",
    )
    assert ["I moved to Porto", "Porto it is"] == [turn.content for turn in turns_of(done.server, done.user)][-2:]


def test_what_is_added_keeps_its_id_and_metadata(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    added = adapter.add("Plays the cello", user_id=done.user, metadata={"kind": "music"}, infer=False)["results"][0]
    another = done.adapter(Untouchable())
    found = next(row for row in another.search("cello", **mine(done))["results"] if row["id"] == added["id"])
    assert "Plays the cello" == found["memory"]
    assert {"kind": "music"} == found["metadata"]
    assert {"kind": "music"} == another.get(added["id"])["metadata"]
    assert ["ADD"] == [event["event"] for event in another.history(added["id"])]
    assert {TEA, "Lives in Lisbon near the river", "Plays the cello"} == set(texts(another.get_all(**mine(done))))


def test_what_mem0_knew_is_answered_from_the_catalogue(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    tea = ids(adapter.search("green tea", **mine(done)))[0]
    expected = done.mem0.get(tea)
    expected.pop("score", None)
    assert expected == adapter.get(tea)
    assert [("ADD", None, TEA)] == [
        (each["event"], each["old_memory"], each["new_memory"]) for each in adapter.history(tea)
    ]
    assert ["Lives in Lisbon near the river"] == texts(adapter.get_all(user_id=done.user, run_id="r1"))


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("delete", ("an-id",), {}),
        ("update", ("an-id", "text"), {}),
        ("delete_all", (), {"user_id": "alice"}),
        ("reset", (), {}),
        ("get", ("no-such-id",), {}),
        ("history", ("no-such-id",), {}),
        ("search", ("tea",), {"filters": {"user_id": "alice", "kind": "taste"}}),
        ("search", ("tea",), {"filters": {"user_id": "alice"}, "threshold": 0.8}),
        ("get_all", (), {"filters": {"user_id": "alice", "kind": "taste"}}),
    ],
)
def test_what_spectron_cannot_do_says_what_to_use(done: Stage, method: str, args: Any, kwargs: Any) -> None:
    adapter = done.adapter(Untouchable())
    with pytest.raises(NotInSpectron) as raised:
        getattr(adapter, method)(*args, **kwargs)
    assert (raised.value.hint or "").startswith("use ")


def test_a_memory_without_a_place_is_refused(done: Stage) -> None:
    with pytest.raises(InputError, match="no rule maps this memory"):
        done.adapter(Untouchable()).add("Whose is this?")


def test_spectron_being_down_is_an_error_now(done: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRON_ENDPOINT", "http://127.0.0.1:9")
    adapter = done.adapter(Untouchable())
    with pytest.raises(Unreachable):
        adapter.search("green tea", **mine(done))


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "500_before", "429"])
def test_a_search_that_was_cut_off_is_asked_again(done: Stage, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    searches: list[Seen] = []

    def choose(seen: Seen) -> Fault:
        if not seen.path.endswith("/query"):
            return "none"
        searches.append(seen)
        return fault if len(searches) % 2 else "none"

    with misbehaving(done.server.base_url, choose) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        assert TEA == texts(done.adapter(Untouchable()).search("green tea", **mine(done)))[0]
        guided = done.async_adapter(Untouchable())
        assert TEA == texts(asyncio.run(guided.search("green tea", done.user)))[0]
    assert 4 == len(searches)


def test_a_spectron_that_does_not_answer_a_search_is_named(done: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "ALONE_S", 0.2)
    with gated(done.server.base_url) as gate:
        monkeypatch.setenv("SPECTRON_ENDPOINT", gate.base_url)
        gate.shut = lambda seen: seen.path.endswith("/query")
        message = f"Spectron at {gate.base_url} did not answer a search within 0.2 s"
        with pytest.raises(Unreachable, match=message):
            done.adapter(Untouchable()).search("green tea", **mine(done))
        with pytest.raises(Unreachable, match=message):
            asyncio.run(done.async_adapter(Untouchable()).search("green tea", done.user))
        gate.shut = lambda seen: False


def test_the_guides_adapter_goes_on_too(done: Stage) -> None:
    async def run() -> None:
        adapter = done.async_adapter(Untouchable())
        await adapter.add("Now drinks oolong tea", done.user, infer=False)
        assert "Now drinks oolong tea" in texts(await adapter.search("oolong tea", done.user))
        with pytest.raises(NotInSpectron):
            await adapter.delete("an-id")

    asyncio.run(run())


LONG = " ".join(
    f"In the year {1000 + number} something else happened in the town by the river." for number in range(60)
)


def test_what_is_added_under_an_id_that_mem0_trims_is_found_under_it(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    adapter.add("Plays the viola", user_id=f" {done.user} ", infer=False)
    assert "Plays the viola" in [turn.content for turn in turns_of(done.server, done.user)]
    assert "Plays the viola" in texts(adapter.search("viola", **mine(done)))


def test_the_rest_of_a_long_text_that_mem0_deleted_does_not_come_back_as_a_new_memory(stage: Stage) -> None:
    """A long text is stored in several passages, and the receipt names the first one alone."""
    gone = stage.say(LONG)
    stage.say("Has two grey cats")
    stage.start()
    stage.catch_up()
    stage.mem0.delete(gone)
    stage.catch_up()
    stage.shift(100)
    stage.step("closing")
    stage.step("complete")
    found = stage.adapter(Untouchable()).search("what happened in the year 1055 by the river", **mine(stage))
    assert [] == [text for text in texts(found) if text in LONG]


def test_a_search_of_one_run_is_not_answered_with_what_another_host_wrote_in_another(done: Stage) -> None:
    there = done.adapter(Untouchable())
    there.add("The code word is heron", user_id=done.user, run_id="r2")
    forget_added(done.state)  # another host has another state directory
    found = done.adapter(Untouchable()).search("code word", filters={"user_id": done.user, "run_id": "r1"})
    assert "The code word is heron" not in texts(found)


def test_once_spectron_is_the_truth_what_a_tool_answered_is_nobodys_memory(stage: Stage) -> None:
    stage.start()
    stage.step("complete")
    adapter = stage.adapter()
    assert ["What is my balance?", "You have 3 euros"] == texts(adapter.add(WITH_TOOLS, user_id=stage.user))
    assert ["What is my balance?", "You have 3 euros"] == turns(stage)


def test_once_spectron_is_the_truth_metadata_that_is_no_json_fails_no_call(stage: Stage) -> None:
    stage.start()
    stage.step("complete")
    adapter = stage.adapter()
    (made,) = ids(adapter.add("I like tea", user_id=stage.user, metadata={"at": datetime(2026, 11, 22, tzinfo=UTC)}))
    assert {"at": "2026-11-22 00:00:00+00:00"} == adapter.get(made)["metadata"]
