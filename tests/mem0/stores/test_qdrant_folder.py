"""An embedded Qdrant folder is read whole, unharmed, and without running what lies in it."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores.qdrant_folder import OUTDATED, QdrantFolder
from spectron_migrate.records import Memory, Skipped
from tests.mem0.app import config
from tests.mem0.conftest import DATA, NOW, VERSIONS, App, sample_config, sample_rows
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.mem0.stores.support import fingerprints
from tests.support.examples import examples

pytestmark = pytest.mark.slow


def open_folder(settings: dict[str, Any]) -> QdrantFolder:
    reader = open_oss(settings, now=NOW)
    assert isinstance(reader, QdrantFolder)
    return reader


def read(settings: dict[str, Any]) -> list[Memory | Skipped]:
    with open_folder(settings) as reader:
        found = list(reader.rows())
        assert 0 == reader.missing()
        return found


def settings_of(folder: Path, collection: str = "mem0") -> dict[str, Any]:
    settings = config(folder)
    settings["vector_store"]["config"]["collection_name"] = collection
    return settings


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_of_every_version_is_read_unaltered(version: str) -> None:
    found = {row.id: row for row in read(sample_config(version)) if isinstance(row, Memory)}

    stored = sample_rows(version)
    assert set(stored) == set(found)
    assert {memory_id: payload["data"] for memory_id, payload in stored.items()} == {
        memory_id: row.memory for memory_id, row in found.items()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_no_byte_of_the_folder_changes(version: str) -> None:
    before = fingerprints(DATA / f"{version}-qdrant")

    read(sample_config(version))

    assert before == fingerprints(DATA / f"{version}-qdrant")


def test_a_folder_that_may_only_be_read_is_enough(tmp_path: Path) -> None:
    folder = write_store(tmp_path, [(key_of(uuid(1)), point(uuid(1), data="tea"))])
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert 1 == len(read(settings_of(folder)))
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)


def test_an_application_that_holds_the_store_keeps_its_lock_and_its_bytes(mem0_app: Callable[..., App]) -> None:
    app = mem0_app()
    for number in range(5):
        app("add", f"note {number}", {"user_id": "alice"})
    folder = Path(app.config["vector_store"]["config"]["path"])
    before = fingerprints(folder)

    found = read(app.config)

    assert before == fingerprints(folder)
    assert {f"note {number}" for number in range(5)} == {row.memory for row in found if isinstance(row, Memory)}
    [added] = app("add", "still writing", {"user_id": "alice"})
    assert "still writing" == app("get", added)["memory"]


def test_rows_written_while_reading_are_read_in_the_end(mem0_app: Callable[..., App]) -> None:
    app = mem0_app()
    for number in range(30):
        app("add", f"note {number}", {"user_id": "alice"})
    app.begin("churn", 0, 200)

    found: dict[str, str] = {}
    with open_folder(app.config) as reader:
        for _ in range(5):
            for row in reader.rows():
                assert isinstance(row, Memory)
                found[row.id] = row.memory
            assert 0 == reader.missing()
    churned = app.answer()
    for row in read(app.config):
        assert isinstance(row, Memory)
        found[row.id] = row.memory

    held = {row["id"]: row["payload"]["data"] for row in app("all")}
    assert set(churned) <= set(found)
    assert held == found


def test_a_row_moved_by_a_writer_between_two_pages_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectron_migrate.mem0.stores.qdrant_folder._PAGE", 3)
    monkeypatch.setattr("spectron_migrate.mem0.stores.qdrant_folder.MOST_CHANGED", 2)
    rows = [(key_of(uuid(number)), point(uuid(number), data=f"old {number}")) for number in range(10)]
    folder = write_store(tmp_path, rows)
    writer = sqlite3.connect(folder / "store/collection/mem0/storage.sqlite", isolation_level=None)
    found: dict[str, str] = {}
    given = 0
    with open_folder(settings_of(folder)) as reader:
        for row in reader.rows():
            assert isinstance(row, Memory)
            found[row.id] = row.memory
            given += 1
            if given == 4:  # a row already read is rewritten, one not yet read is rewritten, one comes, one goes
                for number in (0, 9, 11):
                    values = (key_of(uuid(number)), point(uuid(number), data=f"new {number}"))
                    writer.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", values)
                writer.execute("DELETE FROM points WHERE id = ?", (key_of(uuid(8)),))
            if given == 10:  # the last rowids are given anew: their keys differ, not their numbers
                writer.execute("DELETE FROM points WHERE id = ?", (key_of(uuid(11)),))
                values = (key_of(uuid(12)), point(uuid(12), data="reused"))
                writer.execute("INSERT INTO points VALUES (?, ?)", values)
        assert 0 == reader.missing()
    writer.close()

    expected = {uuid(number): f"old {number}" for number in range(1, 8)}
    expected |= {uuid(0): "new 0", uuid(9): "new 9", uuid(12): "reused"}
    assert expected == {memory_id: found[memory_id] for memory_id in expected}


def test_a_reading_ends_although_an_application_writes_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectron_migrate.mem0.stores.qdrant_folder._PAGE", 3)
    folder = write_store(tmp_path, [(key_of(uuid(number)), point(uuid(number), data="old")) for number in range(10)])
    writer = sqlite3.connect(folder / "store/collection/mem0/storage.sqlite", isolation_level=None)
    with open_folder(settings_of(folder)) as reader:
        ids = set()
        for number, row in enumerate(reader.rows()):
            ids.add(row.id)
            values = (key_of(uuid(100 + number)), point(uuid(100 + number), data="new"))
            writer.execute("INSERT INTO points VALUES (?, ?)", values)
        assert 0 == reader.missing()
    writer.close()

    assert {uuid(number) for number in range(10)} < ids


def test_rows_beside_an_application_are_all_read_and_keep_it_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row moves to the end while the reading goes on, those at the end first."""
    monkeypatch.setattr("spectron_migrate.mem0.stores.qdrant_folder._PAGE", 3)
    folder = write_store(tmp_path, [(key_of(uuid(number)), point(uuid(number), data="old")) for number in range(30)])
    file = folder / "store/collection/mem0/storage.sqlite"
    writer = sqlite3.connect(file, isolation_level=None, timeout=0)
    with open_folder(settings_of(folder)) as reader:
        ids = []
        for number, row in enumerate(reader.rows_beside()):
            ids.append(row.id)
            if number < 30:
                values = (key_of(uuid(29 - number)), point(uuid(29 - number), data="new"))
                writer.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", values)
    writer.close()

    assert {uuid(number) for number in range(30)} == set(ids)


@settings(max_examples=examples(60))
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(("write", "delete")), st.integers(0, 14)), min_size=1, max_size=40
    ),
    few=st.sampled_from((2, 50_000)),
)
def test_whatever_happens_during_a_reading_it_and_the_changes_after_it_show_all(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, str, int]], few: int
) -> None:
    folder = write_store(
        tmp_path_factory.mktemp("store"),
        [(key_of(uuid(number)), point(uuid(number), data="old")) for number in range(10)],
    )
    writer = sqlite3.connect(folder / "store/collection/mem0/storage.sqlite", isolation_level=None)
    with pytest.MonkeyPatch.context() as patched, open_folder(settings_of(folder)) as reader:
        patched.setattr("spectron_migrate.mem0.stores.qdrant_folder._PAGE", 3)
        patched.setattr("spectron_migrate.mem0.stores.qdrant_folder.MOST_CHANGED", few)
        dump: dict[str, str] = {}
        for at, row in enumerate(reader.rows()):
            assert isinstance(row, Memory)
            dump[row.id] = row.memory
            for step, (_, what, number) in enumerate(one for one in plan if one[0] == at):
                writer.execute("DELETE FROM points WHERE id = ?", (key_of(uuid(number)),))
                if what == "write":
                    values = (key_of(uuid(number)), point(uuid(number), data=f"written {at}.{step}"))
                    writer.execute("INSERT INTO points VALUES (?, ?)", values)
        assert 0 == reader.missing()
        with closing_if_any(reader.changes()) as changes:
            since = changes.changed(now=NOW) if changes is not None else None
        if since is None:  # everything has to be read again, and that is known
            dump = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
        else:
            for memory_id in since.gone:
                del dump[memory_id]
            dump |= {memory.id: memory.memory for memory in since.memories}
    held = {row.id: row.memory for row in read(settings_of(folder)) if isinstance(row, Memory)}
    writer.close()

    assert held == dump


def test_two_rows_that_had_one_number_one_after_the_other_are_both_known_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectron_migrate.mem0.stores.qdrant_folder.MOST_CHANGED", 0)
    folder = write_store(tmp_path, [(key_of(uuid(number)), point(uuid(number), data="old")) for number in range(3)])
    writer = sqlite3.connect(folder / "store/collection/mem0/storage.sqlite", isolation_level=None)
    dump: set[str] = set()
    with open_folder(settings_of(folder)) as reader:
        for row in reader.rows():
            dump.add(row.id)
            if row.id in (uuid(2), uuid(12)):
                writer.execute("DELETE FROM points WHERE id = ?", (key_of(row.id),))
            if row.id == uuid(2):
                writer.execute("INSERT INTO points VALUES (?, ?)", (key_of(uuid(12)), point(uuid(12), data="new")))
        with closing_if_any(reader.changes()) as changes:
            since = changes.changed(now=NOW) if changes is not None else None
        dump = {row.id for row in reader.rows()} if since is None else dump.difference(since.gone)
    writer.close()

    assert {row.id for row in read(settings_of(folder))} == dump


@contextmanager
def closing_if_any(opened: ChangesReader | None) -> Iterator[ChangesReader | None]:
    try:
        yield opened
    finally:
        if opened is not None:
            opened.close()


def test_only_the_latest_copy_of_a_point_counts(tmp_path: Path) -> None:
    lettered = "abcdef00-0000-4000-8000-000000000001"
    folder = write_store(
        tmp_path,
        [
            (key_of(lettered.upper()), point(lettered.upper(), data="first spelling")),
            (key_of(lettered), point(lettered, data="second spelling")),
            (key_of(uuid(2)), point(uuid(2), data="protocol 4")),
            (key_of(uuid(2), protocol=5), point(uuid(2), data="protocol 5")),
            (key_of(3), point(3, data="a number")),
        ],
    )

    found = read(settings_of(folder))

    assert {lettered: "second spelling", uuid(2): "protocol 5", "3": "a number"} == {
        row.id: row.memory for row in found if isinstance(row, Memory)
    }
    assert [Skipped(lettered.upper(), OUTDATED), Skipped(uuid(2), OUTDATED)] == [
        row for row in found if isinstance(row, Skipped)
    ]


def test_the_clients_own_folder_with_sparse_vectors_is_read(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection(
        "mem0",
        vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE),
        sparse_vectors_config={"bm25": models.SparseVectorParams()},
    )
    sparse = models.SparseVector(indices=[1], values=[0.5])
    client.upsert(
        "mem0", [models.PointStruct(id=uuid(1), vector={"": [0.1, 0.2], "bm25": sparse}, payload={"data": "tea"})]
    )
    client.close()

    assert ["tea"] == [row.memory for row in read(settings_of(tmp_path)) if isinstance(row, Memory)]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/this-must-not-exist",)


@pytest.mark.parametrize("where", ["payload", "point"])
def test_a_foreign_class_is_refused_by_name_and_never_run(tmp_path: Path, where: str) -> None:
    bad = pickle.dumps(Evil()) if where == "point" else point(uuid(2), data="tea", evil=Evil())
    folder = write_store(tmp_path, [(key_of(uuid(1)), point(uuid(1), data="tea")), (key_of(uuid(2)), bad)])

    with pytest.raises(InputError) as error:
        read(settings_of(folder))

    assert f"a stored point names the class {os.name}.system, which is not part of a memory" == error.value.message
    assert not Path("/tmp/this-must-not-exist").exists()


def test_a_torn_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    whole = point(uuid(2), data="tea")
    folder = write_store(tmp_path, [(key_of(uuid(1)), point(uuid(1), data="tea")), (key_of(uuid(2)), whole[:-20])])

    [first, torn] = read(settings_of(folder))

    assert isinstance(first, Memory)
    assert isinstance(torn, Skipped)
    assert uuid(2) == torn.id
    assert torn.reason.startswith("unreadable row: ")


def test_an_unknown_collection_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    folder = write_store(tmp_path, [], collection="memories")
    write_store(tmp_path, [], collection="others")

    with pytest.raises(InputError) as error:
        read(settings_of(folder, "memorise"))

    assert f"there is no collection memorise in {folder}/store" == error.value.message
    assert "collections there: memories, others" == error.value.hint


def test_a_missing_folder_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(settings_of(tmp_path / "nowhere"))

    assert f"there is no Qdrant folder at {tmp_path}/nowhere/store" == error.value.message
    assert not (tmp_path / "nowhere").exists()


def test_an_alias_leads_to_its_collection(tmp_path: Path) -> None:
    folder = write_store(tmp_path, [(key_of(uuid(1)), point(uuid(1), data="tea"))], collection="memories_v2")
    (folder / "store" / "meta.json").write_text('{"collections": {}, "aliases": {"mem0": "memories_v2"}}')

    assert 1 == len(read(settings_of(folder)))


def test_an_empty_collection_is_complete_but_an_emptied_one_is_an_error(tmp_path: Path) -> None:
    assert [] == read(settings_of(write_store(tmp_path / "new", [])))

    rows = [(key_of(uuid(number)), point(uuid(number), data="tea")) for number in range(100)]
    folder = write_store(tmp_path / "erased", rows)
    with sqlite3.connect(folder / "store/collection/mem0/storage.sqlite") as db:
        db.execute("DELETE FROM points")
    db.close()
    with pytest.raises(Incomplete) as error:
        read(settings_of(folder))

    assert error.value.message.startswith(f"collection mem0 in {folder}/store reads as empty, but its file holds ")


def test_a_file_that_is_not_a_database_is_reported(tmp_path: Path) -> None:
    folder = write_store(tmp_path, [])
    (folder / "store/collection/mem0/storage.sqlite").write_bytes(b"not a database" * 100)

    with pytest.raises(InputError) as error:
        read(settings_of(folder))

    assert "storage.sqlite is not a readable SQLite database: file is not a database" in error.value.message


CRASH = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
for number in range(200):
    db.execute("INSERT INTO points VALUES (?, ?)", (f"torn {number}", b"x" * 4000))
os.kill(os.getpid(), 9)
"""


def test_the_half_written_file_of_a_killed_application_is_rolled_back_in_a_copy(tmp_path: Path) -> None:
    rows = [(key_of(uuid(number)), point(uuid(number), data=f"note {number}")) for number in range(50)]
    folder = write_store(tmp_path, rows)
    file = folder / "store/collection/mem0/storage.sqlite"
    subprocess.run([sys.executable, "-c", CRASH, str(file)], check=False)
    assert file.with_name("storage.sqlite-journal").exists()
    before = fingerprints(folder)

    found = read(settings_of(folder))

    assert {f"note {number}" for number in range(50)} == {row.memory for row in found if isinstance(row, Memory)}
    assert before == fingerprints(folder)


def test_expiry_is_judged_by_the_clock_that_was_given() -> None:
    states = {}
    for now in (datetime(2019, 1, 1, tzinfo=UTC), NOW):
        with open_oss(sample_config("2.2.1"), now=now) as reader:
            states[now] = sorted(row.state for row in reader.rows() if isinstance(row, Memory))

    assert {"active"} == set(states[datetime(2019, 1, 1, tzinfo=UTC)])
    assert {"active", "expired"} == set(states[NOW])


def test_reading_imports_no_qdrant_client_and_no_mem0() -> None:
    script = (
        "import sys, json; from datetime import UTC, datetime; from spectron_migrate.mem0.open import open_oss;"
        "reader = open_oss(json.loads(sys.argv[1]), now=datetime.now(UTC)); rows = list(reader.rows());"
        "print(len(rows), sorted({'mem0', 'qdrant_client', 'numpy', 'httpx'} & set(sys.modules)))"
    )
    settings = json.dumps(sample_config("1.0.11"))
    began = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", script, settings], check=True, capture_output=True, text=True).stdout

    assert f"{len(sample_rows('1.0.11'))} []\n" == found
    assert time.perf_counter() - began < 10
