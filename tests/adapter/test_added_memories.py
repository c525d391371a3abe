"""Memories added after `complete`, as the state directory keeps them."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.database.location import parse_location
from spectron_migrate.records import Memory
from spectron_migrate.state.postgres import PostgresState
from tests.adapter.support import Stage

pytestmark = pytest.mark.slow


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
    (stage.state / "since.db").mkdir()
    assert "Said once" == adapter.add("Said once", user_id=stage.user)["results"][0]["memory"]
    assert "its id is not kept" in caplog.text


def test_a_database_that_was_restored_fails_no_write_that_spectron_has(
    postgres_state: str, caplog: pytest.LogCaptureFixture
) -> None:
    psycopg = pytest.importorskip("psycopg")
    location = parse_location(postgres_state)
    state = PostgresState(location)
    added = AddedMemories(state)
    added.add(Memory(id="m1", memory="one", user_id="ada"), ["turn"], (("user/ada",),))
    with psycopg.connect(location.url, autocommit=True) as db:
        db.execute(f'UPDATE "{location.schema}".commit_count SET commits = 0')
        db.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND usename = current_user AND application_name LIKE 'spectron-migrate%'"
        )
    for number in (2, 3):  # the first finds that the connection is gone
        added.add(Memory(id=f"m{number}", memory="more", user_id="ada"), ["turn"], (("user/ada",),))
    assert "has forgotten" in caplog.text
    state.close()


def test_a_memory_and_its_rows_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    since = AddedMemories(tmp_path)
    since.add(Memory(id="m1", memory="one", user_id="ada"), ["turn", "chunk"], (("user/ada",),))
    db = sqlite3.connect(tmp_path / "since.db")
    db.execute("DROP TABLE made")
    db.close()
    since.add(Memory(id="m2", memory="two", user_id="ada"), ["turn"], (("user/ada",),))
    assert ["m1"] == [memory.id for memory in since.all_of({"user_id": "ada"})]
    since.close()
