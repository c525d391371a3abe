"""The history file says when a text was written, whatever metadata edits and other writers do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.history import HistoryFile, history_path, open_history
from tests.mem0.conftest import DATA, VERSIONS, App, sample_rows

pytestmark = pytest.mark.slow

COLUMNS = (
    "id TEXT PRIMARY KEY, memory_id TEXT, old_memory TEXT, new_memory TEXT, event TEXT, "
    "created_at DATETIME, updated_at DATETIME, is_deleted INTEGER"
)
T = "2025-01-0{}T00:00:00+00:00"
TOLD = "2025-01-0{}T00:00:00.000000Z"


def write(path: Path, events: list[tuple[Any, ...]], columns: str = COLUMNS) -> Path:
    """Events of memory `m`: (old, new, event, created, updated)."""
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE history ({columns})")
        for number, (old, new, event, created, updated) in enumerate(events):
            values = (str(number), "m", old, new, event, created, updated, int(event == "DELETE"))
            db.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    db.close()
    return path


ADD = (None, "a", "ADD", T.format(1), None)
CHANGE = ("a", "b", "UPDATE", T.format(1), T.format(2))
META = ("b", "b", "UPDATE", T.format(1), T.format(3))
BACK = ("b", "a", "UPDATE", T.format(1), T.format(4))
GONE = ("a", None, "DELETE", None, None)


@pytest.mark.parametrize(
    ("events", "text", "found"),
    [
        ([ADD], "a", (TOLD.format(1), 1)),
        ([ADD, CHANGE], "b", (TOLD.format(2), 2)),
        ([ADD, CHANGE, META], "b", (TOLD.format(2), 2)),
        ([ADD, CHANGE, META, BACK], "a", (TOLD.format(4), 4)),
        ([ADD, CHANGE], "a", None),
        ([ADD], "written by another process", None),
        ([ADD, GONE], "a", None),
        ([ADD, GONE, (*ADD[:1], "a", "ADD", T.format(5), None)], "a", (TOLD.format(5), 3)),
        ([(None, "a", "ADD", None, None)], "a", None),
        ([(None, "a", "ADD", "2025-01-01T00:00:00-08:00", None)], "a", ("2025-01-01T08:00:00.000000Z", 1)),
        ([], "a", None),
    ],
)
def test_the_time_of_a_text_is_when_it_last_changed_to_it(
    tmp_path: Path, events: list[tuple[Any, ...]], text: str, found: tuple[str, int] | None
) -> None:
    history = HistoryFile(write(tmp_path / "history.db", events))
    try:
        assert found == history.text_at("m", text)
    finally:
        history.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_history_of_every_version_knows_every_memory_of_its_store(version: str) -> None:
    history = HistoryFile(DATA / f"{version}-qdrant" / "history.db")
    try:
        for memory_id, payload in sample_rows(version).items():
            assert history.text_at(memory_id, payload["data"]) is not None
        deletions = [event for event in history.rows() if event["event"] == "DELETE"]
    finally:
        history.close()
    assert 6 == len(deletions)
    assert all(event["old_memory"] for event in deletions)
    assert ("0.1.118" == version) == all(event["updated_at"] is None for event in deletions)


def test_a_metadata_edit_of_mem0_itself_does_not_move_the_time(mem0_app: Callable[..., App]) -> None:
    app = mem0_app()
    [memory_id] = app("add", "likes tea", {"user_id": "alice"})
    app("update", memory_id, "likes coffee")
    history = HistoryFile(Path(app.config["history_db_path"]))
    before = history.text_at(memory_id, "likes coffee")
    history.close()

    app("update", memory_id, None, {"topic": "drinks"})

    history = HistoryFile(Path(app.config["history_db_path"]))
    after = history.text_at(memory_id, "likes coffee")
    rows = list(history.rows())
    history.close()
    assert before is not None
    assert before == after
    assert ["ADD", "UPDATE", "UPDATE"] == [row["event"] for row in rows]


def test_more_rows_than_a_page_are_all_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectron_migrate.mem0.stores.history._PAGE", 3)
    events = [("a", f"v{number}", "UPDATE", T.format(1), T.format(2)) for number in range(10)]
    history = HistoryFile(write(tmp_path / "history.db", events))
    try:
        assert [f"v{number}" for number in range(10)] == [row["new_memory"] for row in history.rows()]
        assert (TOLD.format(2), 10) == history.text_at("m", "v9")
    finally:
        history.close()


def test_another_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE history (a, b)")
    db.close()

    with pytest.raises(InputError) as error:
        HistoryFile(tmp_path / "other.db")

    assert f"{tmp_path}/other.db is not a history of Mem0" == error.value.message


def test_no_history_is_no_error(tmp_path: Path) -> None:
    assert open_history(tmp_path / "history.db") is None


def test_the_history_file_is_where_mem0_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("MEM0_DIR", raising=False)
    assert Path("/home/a/.mem0/history.db") == history_path({})
    monkeypatch.setenv("MEM0_DIR", "/data/mem0")
    assert Path("/data/mem0/history.db") == history_path({})
    assert Path("mine.db") == history_path({"history_db_path": "mine.db"})
