"""The data set of the rehearsal, and the real Mem0 store that is made from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Memory, format_time
from spectron_migrate.rehearsal.store import MemoryEvent, load_events, load_questions, make_store

pytestmark = pytest.mark.slow

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
WITHOUT_A_NETWORK = """
import socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from spectron_migrate.rehearsal.store import make_store
print(make_store(Path(sys.argv[1])))
"""


def events_by_key() -> dict[str, list[MemoryEvent]]:
    grouped: dict[str, list[MemoryEvent]] = defaultdict(list)
    for event in load_events():
        grouped[event.key].append(event)
    return grouped


def alive() -> dict[str, list[MemoryEvent]]:
    return {key: events for key, events in events_by_key().items() if events[-1].kind != "delete"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store, made in a process that can reach no network and has an empty home."""
    folder, home = tmp_path_factory.mktemp("rehearsal"), tmp_path_factory.mktemp("home")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MEM0_")}
    made = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_NETWORK, str(folder)],
        env={**environment, "HOME": str(home)}, capture_output=True, text=True, check=False, cwd=home,
    )  # fmt: skip
    assert 0 == made.returncode
    assert f"{folder / 'mem0.json'}\n" == made.stdout
    assert "" == made.stderr
    assert [] == list(home.iterdir())
    return folder


@pytest.fixture(scope="module")
def rows(store: Path) -> dict[str, Memory]:
    """The memories in the store, by key in the data set."""
    keys = {memory_id: key for key, memory_id in json.loads((store / "keys.json").read_text("utf-8")).items()}
    config = json.loads((store / "mem0.json").read_text("utf-8"))
    with open_oss(config, now=TODAY) as reader:
        return {keys[row.id]: row for row in reader.rows() if isinstance(row, Memory)}


def test_the_data_set_is_as_large_and_as_mixed_as_a_small_real_store() -> None:
    added = [events[0] for events in alive().values()]
    assert len(added) >= 150
    assert 5 == len({event.user for event in added if event.user})
    assert {"kitchen-helper", "coach"} == {event.agent for event in added if event.agent}
    assert len({event.run for event in added if event.run}) >= 6
    assert max(event.at for event in added) - min(event.at for event in added) > timedelta(days=690)
    assert all(event.at < TODAY for event in load_events())


def test_every_user_and_each_agent_alone_has_memories() -> None:
    owners = Counter((event.user, event.agent if event.user is None else None) for (event, *_) in alive().values())
    assert all(owners[(user, None)] >= 25 for user in {event.user for event in load_events() if event.user})
    assert all(owners[(None, agent)] >= 3 for agent in ("kitchen-helper", "coach"))


def test_users_have_every_kind_of_id() -> None:
    users = {event.user for event in load_events() if event.user}
    assert {"alice", "tomas.novak@example.com", "auth0|64f1c0a9b7e2d35a1c8f9e07", "美咲", "acme:Kwame"} == users


@pytest.mark.parametrize(("key", "events"), [pytest.param(*each, id=each[0]) for each in events_by_key().items()])
def test_a_life_of_a_memory_makes_sense(key: str, events: list[MemoryEvent]) -> None:
    first, *later = events
    assert "add" == first.kind
    assert first.text
    assert first.user or first.agent or first.run
    assert all(event.kind != "add" for event in later)
    assert all(event.kind != "delete" for event in events[:-1])
    times = [event.at for event in events]
    assert sorted(set(times)) == times
    assert all(event.text for event in later if event.kind == "update")
    assert all(event.metadata for event in later if event.kind == "tag")


def test_the_data_set_holds_everything_that_is_hard_to_migrate() -> None:
    added = [events[0] for events in events_by_key().values()]
    texts = [event.text for event in added]
    kinds = Counter(event.kind for event in load_events())
    assert kinds["update"] >= 10
    assert kinds["delete"] >= 3
    assert kinds["tag"] >= 2
    assert 2 == Counter((event.user, event.text) for event in added).most_common(1)[0][1]
    assert any("[bold" in text and "[/]" in text for text in texts)
    assert any("<script>" in text for text in texts)
    assert any("\x1b[" in text for text in texts)
    assert any("🐈" in text for text in texts)
    assert any("\n" in text for text in texts)
    assert any(len(text) > 700 for text in texts)
    assert any(isinstance(value, dict) for event in added for value in event.metadata.values())
    assert any(event.expires and event.expires < "2026-01-01" for event in added)
    assert any(event.expires and event.expires > "2030-01-01" for event in added)
    assert any(event.role == "assistant" for event in added)
    assert any(event.actor for event in added)
    shared = Counter(text for _, text in {(event.user, event.text) for event in added})
    assert any(count > 1 for count in shared.values())


def test_questions_ask_for_memories_that_this_user_still_has() -> None:
    questions, living = load_questions(), alive()
    assert len(questions) >= 40
    for question in questions:
        for key in question.expect:
            memory = living[key][0]
            assert question.user == memory.user
            assert question.agent in (None, memory.agent)
            assert memory.expires is None or memory.expires > "2030-01-01"
    assert {event.user for event in load_events() if event.user} == {question.user for question in questions}


def test_every_living_memory_is_in_the_store_with_its_last_text(rows: dict[str, Memory]) -> None:
    expected = {key: [event.text for event in events if event.text][-1] for key, events in alive().items()}
    assert expected == {key: row.memory for key, row in rows.items()}


def test_owners_and_metadata_are_those_of_the_data_set(rows: dict[str, Memory]) -> None:
    for key, events in alive().items():
        first, row = events[0], rows[key]
        assert first.user == row.user_id
        assert first.agent == row.agent_id
        assert first.run == row.run_id
        assert first.actor == row.actor_id
        if len(events) == 1:
            assert first.metadata == dict(row.metadata)


def test_only_what_has_expired_is_hidden(rows: dict[str, Memory]) -> None:
    expected = {key for key, events in alive().items() if (events[0].expires or "9999") < "2026-01-01"}
    assert expected == {key for key, row in rows.items() if row.state == "expired"}
    assert {"active", "expired"} == {row.state for row in rows.values()}


def test_times_reach_back_over_two_years(rows: dict[str, Memory]) -> None:
    for key, events in alive().items():
        assert format_time(events[0].at) == rows[key].created_at
        assert format_time(events[-1].at) == rows[key].updated_at


def test_history_knows_when_each_text_came_to_be(store: Path, rows: dict[str, Memory]) -> None:
    history = HistoryFile(store / "history.db")
    try:
        for key, events in alive().items():
            change = history.text_at(rows[key].id, rows[key].memory)
            assert change is not None
            assert format_time([event.at for event in events if event.text][-1]) == change[0]
        deletions = [event for event in history.rows() if event["event"] == "DELETE"]
    finally:
        history.close()
    gone = [events for events in events_by_key().values() if events[-1].kind == "delete"]
    deleted_at = {event["old_memory"]: utc_time(event["updated_at"])[0] for event in deletions}
    assert {events[0].text: format_time(events[-1].at) for events in gone} == deleted_at


def test_queries_name_the_ids_that_mem0_gave(store: Path) -> None:
    ids = json.loads((store / "keys.json").read_text("utf-8"))
    queries = [json.loads(line) for line in (store / "queries.jsonl").read_text("utf-8").splitlines()]
    expected = [(question.text, question.user, [ids[key] for key in question.expect]) for question in load_questions()]
    assert expected == [(query["query"], query["user_id"], query["expect"]) for query in queries]


def test_an_existing_store_is_not_overwritten(store: Path) -> None:
    with pytest.raises(InputError, match="already holds a store"):
        make_store(store)
