"""Memories added after `complete`, as the state directory keeps them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from spectron_migrate.adapter import added_memories
from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.records import Memory
from spectron_migrate.state.postgres import PostgresState
from tests.adapter.support import Stage
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.both_engines]


def lose_table(added: AddedMemories) -> None:
    """One of the tables is dropped, so that no memory can be kept."""
    tables = added._open(create=True)
    assert tables is not None
    tables.change((f"DROP TABLE {tables.prefix}made", [()]))


def cut(location: PostgresLocation, *more: str) -> None:
    """All connections of the user are cut, and the statements run."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(location.url, autocommit=True) as db:
        for statement in more:
            db.execute(statement)
        db.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND usename = current_user AND application_name LIKE 'spectron-migrate%'"
        )


def test_a_child_process_neither_waits_for_its_parents_lock_nor_uses_its_file(tmp_path: Path) -> None:
    since = AddedMemories(tmp_path)
    since.add(Memory(id="m1", memory="said by the parent", user_id="alice"), ["t1"], (("user/alice",),))
    held = threading.Event()
    let_go = threading.Event()

    def hold() -> None:
        with since._lock:
            held.set()
            let_go.wait(20)

    threading.Thread(target=hold, daemon=True).start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        found = since.memory("m1")
        os._exit(0 if found is not None and found.memory == "said by the parent" else 1)
    _, status = os.waitpid(child, 0)
    let_go.set()
    assert 0 == status


def test_what_cannot_be_kept_fails_no_write_that_spectron_has(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that was told of an error would write once more."""
    stage.to_spectron()
    stage.step("closing")
    stage.step("complete")
    adapter = stage.adapter()
    lose_table(adapter._core.added)
    assert "Said once" == adapter.add("Said once", user_id=stage.user)["results"][0]["memory"]
    assert "its id is not kept" in caplog.text
    found = adapter.search("said once", filters={"user_id": stage.user})
    assert ["Said once"] == [row["memory"] for row in found["results"]]


@pytest.mark.ledger_file  # it is about Postgres alone
def test_a_database_that_was_restored_fails_no_write_that_spectron_has(
    postgres_state: str, caplog: pytest.LogCaptureFixture
) -> None:
    location = parse_location(postgres_state)
    state = PostgresState(location)
    added = AddedMemories(state)
    added.add(Memory(id="m1", memory="one", user_id="ada"), ["turn"], (("user/ada",),))
    cut(location, f'UPDATE "{location.schema}".commit_count SET commits = 0')
    added.add(Memory(id="m2", memory="two", user_id="ada"), ["turn"], (("user/ada",),))
    assert "has forgotten" in caplog.text
    added.close()
    state.close()


@pytest.mark.ledger_file  # the same
def test_a_memory_is_kept_although_the_connection_was_cut_before(postgres_state: str) -> None:
    location = parse_location(postgres_state)
    state = PostgresState(location)
    added = AddedMemories(state)
    for number in range(2):
        added.add(Memory(id=f"m{number}", memory="said", user_id="ada"), [f"t{number}"], (("user/ada",),))
        cut(location)
    assert {"t0": "m0", "t1": "m1"} == {row: memory.id for row, memory in added.made_of(["t0", "t1"]).items()}
    added.close()
    state.close()


@pytest.mark.ledger_file  # the same
def test_a_database_that_does_not_answer_is_waited_for_no_longer_than_the_budget(
    postgres_state: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else one write or search after `complete` keeps all others waiting."""
    psycopg = pytest.importorskip("psycopg")
    location = parse_location(postgres_state)
    state = PostgresState(location)
    added = AddedMemories(state)
    added.add(Memory(id="m1", memory="one", user_id="ada"), ["turn"], (("user/ada",),))
    monkeypatch.setattr(added_memories, "READ_S", 0.05)
    monkeypatch.setattr(added_memories, "KEEP_S", 0.05)
    with psycopg.connect(location.url) as db:
        db.execute(f'LOCK TABLE "{location.schema}".since_made')
        added.add(Memory(id="m2", memory="two", user_id="ada"), ["turn 2"], (("user/ada",),))
        assert {} == added.made_of(["turn"])
    assert "did not answer within 50 ms" in caplog.text
    assert "searches do not know what was added since the cutover" in caplog.text
    monkeypatch.setattr(added_memories, "READ_S", 20.0)
    wait_until(lambda: "m2" == getattr(added.made_of(["turn 2"]).get("turn 2"), "id", None))
    added.close()
    state.close()


def test_a_memory_and_its_rows_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    since = AddedMemories(tmp_path)
    since.add(Memory(id="m1", memory="one", user_id="ada"), ["turn", "chunk"], (("user/ada",),))
    lose_table(since)
    since.add(Memory(id="m2", memory="two", user_id="ada"), ["turn"], (("user/ada",),))
    assert ["m1"] == [memory.id for memory in since.all_of({"user_id": "ada"})]
    since.close()
