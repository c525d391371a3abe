"""The mark of a store's state: whatever changes in it, by whatever way, the mark changes too."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mem0.state_mark import FRESH_NS, state_mark

pytestmark = pytest.mark.slow

LATER_NS = 3_600 * 10**9


def config(folder: Path) -> dict[str, Any]:
    store = {"provider": "qdrant", "config": {"collection_name": "mem0", "path": str(folder / "store")}}
    return {"oss": {"config": {"vector_store": store, "history_db_path": str(folder / "history.db")}}}


def mark(folder: Path) -> str | None:
    return state_mark(config(folder), now_ns=time.time_ns() + LATER_NS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_store(tmp_path)


def make_store(folder: Path) -> Path:
    (folder / "store/collection/mem0").mkdir(parents=True)
    (folder / "store/meta.json").write_text('{"collections": {"mem0": {}}, "aliases": {}}')
    with opened(folder) as db, db:
        db.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
        db.executemany("INSERT INTO points VALUES (?, ?)", [(f"k{number}", b"x" * 50) for number in range(20)])
    return folder


def opened(folder: Path) -> closing[sqlite3.Connection] | Any:
    return sqlite3.connect(folder / "store/collection/mem0/storage.sqlite")


def test_it_is_the_same_while_nothing_changes_also_when_others_read(folder: Path) -> None:
    before = mark(folder)
    with closing(opened(folder)) as db:
        db.execute("SELECT count(*) FROM points").fetchone()
    assert before is not None
    assert before == mark(folder)


@pytest.mark.parametrize("journal", ["delete", "wal", "truncate", "persist"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO points VALUES ('new', x'00')",
        "INSERT OR REPLACE INTO points VALUES ('k3', x'01')",
        "UPDATE points SET point = x'02' WHERE id = 'k3'",
        "DELETE FROM points WHERE id = 'k3'",
    ],
)
def test_a_change_of_one_row_changes_it_although_size_and_time_of_the_file_stay(
    folder: Path, statement: str, journal: str
) -> None:
    file = folder / "store/collection/mem0/storage.sqlite"
    with closing(opened(folder)) as db:
        db.execute(f"PRAGMA journal_mode = {journal}").fetchall()
        db.execute("UPDATE points SET point = point WHERE id = 'k1'")
        db.commit()
        before, times = mark(folder), _times(file)
        db.execute(statement)
        db.commit()
        for path, (accessed, modified) in times.items():
            os.utime(path, ns=(accessed, modified))
        assert before is not None
        assert before != mark(folder)


def _times(file: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in file.parent.iterdir() if path.name.startswith(file.name) and "shm" not in path.name]
    return {path: (path.stat().st_atime_ns, path.stat().st_mtime_ns) for path in files}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["put", "drop", "checkpoint", "vacuum", "nothing"]), max_size=8), st.booleans())
def test_no_two_states_in_a_row_share_it(steps: list[str], wal: bool) -> None:
    """A mark taken between any two transactions of a play tells whether anything was committed since."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = make_store(Path(name))
        with closing(opened(folder)) as db:
            db.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}").fetchall()
            for number, step in enumerate(steps):
                before = mark(folder)
                if step == "put":
                    db.execute("INSERT INTO points VALUES (?, ?)", (f"new{number}", b"y"))
                elif step == "drop":
                    db.execute("DELETE FROM points WHERE id = (SELECT min(id) FROM points)")
                elif step == "checkpoint":
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                elif step == "vacuum":
                    db.execute("VACUUM")
                changed = db.in_transaction
                db.commit()
                if changed:
                    assert before != mark(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "history.db").write_bytes(b"a history"),
        lambda folder: (folder / "store/meta.json").write_text('{"collections": {}, "aliases": {"mem0": "other"}}'),
        lambda folder: os.replace(folder / "copy", folder / "store/collection/mem0/storage.sqlite"),
        lambda folder: (folder / "store/collection/mem0/storage.sqlite").unlink(),
    ],
    ids=["history", "alias", "another file", "removed"],
)
def test_a_history_an_alias_or_another_file_in_its_place_changes_it(
    folder: Path, change: Callable[[Path], object]
) -> None:
    (folder / "copy").write_bytes((folder / "store/collection/mem0/storage.sqlite").read_bytes())
    before = mark(folder)
    change(folder)
    assert before != mark(folder)


def test_a_file_that_changed_a_moment_ago_has_none_because_it_may_change_again_at_that_time(folder: Path) -> None:
    newest = max(path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file())
    assert state_mark(config(folder), now_ns=newest + FRESH_NS - 1) is None
    assert state_mark(config(folder), now_ns=newest + FRESH_NS + 1) is not None


@pytest.mark.parametrize(
    ("provider", "setting"), [("milvus", "url"), ("redis", "redis_url"), ("pgvector", "connection_string")]
)
def test_a_store_that_cannot_say_for_certain_has_none(provider: str, setting: str) -> None:
    section = {"oss": {"config": {"vector_store": {"provider": provider, "config": {setting: "redis://localhost"}}}}}
    assert state_mark(section, now_ns=0) is None


def test_the_platform_has_none() -> None:
    assert state_mark({"platform": {"base_url": "http://localhost", "api_key": "m0-x"}}, now_ns=0) is None


def test_files_have_one_until_one_of_them_changes_or_another_matches(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('[{"id": "1", "memory": "tea"}]')
    section = {"files": [str(tmp_path / "*.json")]}

    def taken() -> str | None:
        return state_mark(section, now_ns=time.time_ns() + LATER_NS)

    before = taken()
    assert before is not None
    assert before == taken()
    (tmp_path / "two.json").write_text("[]")
    both = taken()
    assert before != both
    (tmp_path / "one.json").write_text('[{"id": "1", "memory": "mat"}]')
    assert both != taken()
    assert state_mark({"files": [str(tmp_path / "one.json")]}, now_ns=time.time_ns()) is None
