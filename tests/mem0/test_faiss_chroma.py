"""FAISS and Chroma folders that Mem0 wrote are read without FAISS, Chroma or Mem0, and stay as they are."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import DATA, NOW, VERSIONS
from tests.mem0.test_qdrant_folder import fingerprints

Row = dict[str, Any]


@pytest.fixture(params=[(provider, version) for provider in ("faiss", "chroma") for version in VERSIONS], ids="-".join)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A copy of a folder that this version of Mem0 wrote, and the configuration that opens it."""
    provider, version = request.param
    folder = tmp_path / "sample"
    shutil.copytree(DATA / f"{version}-{provider}", folder)
    return config(folder, provider), folder


def config(folder: Path, provider: str, collection: str = "mem0") -> dict[str, Any]:
    store = {"provider": provider, "config": {"path": str(folder / "store"), "collection_name": collection}}
    return {"vector_store": store, "history_db_path": str(folder / "history.db")}


def read(settings: dict[str, Any], notes: list[str] | None = None) -> list[Memory | Skipped]:
    with open_oss(settings, now=NOW, sleep=lambda seconds: None) as reader:
        told = list(reader.rows())
        assert len(told) == reader.native_count()
        if notes is not None:
            notes.extend(reader.notes)
        return told


def truth(folder: Path) -> dict[str, Row]:
    return {row["id"]: row["payload"] for row in json.loads((folder / "raw.json").read_text("utf-8"))}


def test_every_row_is_told_unaltered_and_the_folder_stays_as_it_is(sample: tuple[dict[str, Any], Path]) -> None:
    settings, folder = sample
    before = fingerprints(folder)

    told = {row.id: row for row in read(settings) if isinstance(row, Memory)}

    assert before == fingerprints(folder)
    held = truth(folder)
    assert set(held) == set(told)
    for memory_id, payload in held.items():
        row = told[memory_id]
        assert (payload["data"], payload["user_id"]) == (row.memory, row.user_id)
        assert (payload.get("agent_id"), payload.get("run_id")) == (row.agent_id, row.run_id)
        own = {"topic", "seq", "prio", "flag", "tags"} & set(payload)
        assert {name: payload[name] for name in own} == dict(row.metadata)


def test_a_collection_that_is_not_there_names_those_that_are(sample: tuple[dict[str, Any], Path]) -> None:
    settings, folder = sample
    provider = settings["vector_store"]["provider"]

    with pytest.raises(InputError) as error:
        read(config(folder, provider, "memorise"))

    assert f"there is no collection memorise in {folder}/store" == error.value.message
    assert "mem0" in (error.value.hint or "")


@pytest.mark.parametrize("provider", ["faiss", "chroma"])
def test_a_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path, provider: str) -> None:
    with pytest.raises(InputError, match="folder at"):
        read(config(tmp_path / "nowhere", provider))

    assert not (tmp_path / "nowhere").exists()


def faiss(folder: Path, *, vectors: int, **docstores: Any) -> dict[str, Any]:
    """A folder with an index of so many vectors, and docstores by their kind, the last one youngest."""
    (folder / "store").mkdir()
    (folder / "store" / "mem0.faiss").write_bytes(struct.pack("<4siq", b"IxFI", 16, vectors) + bytes(64))
    for age, (kind, rows) in enumerate(docstores.items()):
        path = folder / "store" / f"mem0.{kind}"
        ids = dict(enumerate(rows))
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif kind == "json":
            path.write_text(json.dumps({"docstore": rows, "index_to_id": ids}))
        else:
            path.write_bytes(pickle.dumps((rows, ids)))
        os.utime(path, (1000 + age, 1000 + age))
    return config(folder, "faiss")


OLD, NEW = {"m1": {"data": "old"}}, {"m1": {"data": "new"}}


@pytest.mark.parametrize("docstores", [{"json": OLD, "pkl": NEW}, {"pkl": OLD, "json": NEW}])
def test_of_two_docstores_the_younger_one_counts(tmp_path: Path, docstores: dict[str, Any]) -> None:
    [row] = read(faiss(tmp_path, vectors=1, **docstores))

    assert isinstance(row, Memory)
    assert "new" == row.memory


def test_vectors_without_a_memory_are_pointed_out(tmp_path: Path) -> None:
    notes: list[str] = []

    read(faiss(tmp_path, vectors=3, json=OLD), notes)

    assert 1 == len(notes)
    assert "holds 3 vectors for 1 memory;" in notes[0]


def test_an_emptied_docstore_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="reads as empty, but the index beside it holds 3 vectors"):
        read(faiss(tmp_path, vectors=3, json={}))


@pytest.mark.parametrize(
    "docstores", [{"json": b'{"docstore": {"m1": {"da'}, {"pkl": pickle.dumps((OLD, {}))[:-9]}, {"json": b"[]"}]
)
def test_a_docstore_that_was_cut_off_is_told(tmp_path: Path, docstores: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is no docstore of Mem0's, or was cut off"):
        read(faiss(tmp_path, vectors=1, **docstores))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/this-must-not-exist",)


def test_a_hostile_docstore_is_refused_by_name_and_never_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"names the class {os.name}.system"):
        read(faiss(tmp_path, vectors=1, pkl=pickle.dumps(({"m1": Evil()}, {}))))

    assert not Path("/tmp/this-must-not-exist").exists()


@pytest.fixture
def chroma(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """A copy of the newest Chroma folder, changed by a statement."""

    def changed(statement: str) -> dict[str, Any]:
        shutil.copytree(DATA / "2.2.1-chroma", tmp_path / "c")
        with sqlite3.connect(tmp_path / "c" / "store" / "chroma.sqlite3") as db:
            db.executescript(statement)
        db.close()
        return config(tmp_path / "c", "chroma")

    return changed


def test_what_stands_in_chromas_queue_alone_counts_as_missing(chroma: Callable[[str], dict[str, Any]]) -> None:
    settings = chroma(
        "INSERT INTO embeddings_queue (seq_id, operation, topic, id) SELECT 99, 0, topic, 'late' FROM embeddings_queue "
        "WHERE id IN (SELECT embedding_id FROM embeddings) LIMIT 1"
    )

    with open_oss(settings, now=NOW) as reader:
        assert (10, 11) == (len(list(reader.rows())), reader.native_count())


def test_a_database_in_wal_mode_is_read_from_a_copy(chroma: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    settings = chroma("")
    path = tmp_path / "c" / "store" / "chroma.sqlite3"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("UPDATE embedding_metadata SET string_value = 'in the wal' WHERE key = 'data'")
    before = fingerprints(tmp_path / "c")

    told = read(settings)

    assert before == fingerprints(tmp_path / "c")
    assert {"in the wal"} == {row.memory for row in told if isinstance(row, Memory)}
    writer.close()


def test_pages_of_chroma_join_without_a_gap(
    chroma: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = chroma("")
    expected = read(settings)
    monkeypatch.setattr("spectron_migrate.mem0.stores.chroma_folder._PAGE", 3)

    assert expected == read(settings)
