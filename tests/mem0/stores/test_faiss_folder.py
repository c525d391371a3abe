"""FAISS folders that Mem0 wrote are read without FAISS or Mem0, and stay as they are."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.records import Memory
from tests.mem0.conftest import DATA, VERSIONS
from tests.mem0.stores.support import as_stored, config, fingerprints, read, stored_rows


@pytest.fixture(params=VERSIONS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a folder that this version of Mem0 wrote."""
    folder = tmp_path / "sample"
    shutil.copytree(DATA / f"{request.param}-faiss", folder)
    return folder


def test_every_row_is_read_unaltered_and_the_folder_stays_as_it_is(sample: Path) -> None:
    before = fingerprints(sample)

    rows = read(config(sample, "faiss"))

    assert before == fingerprints(sample)
    assert stored_rows(sample) == as_stored(rows)


def test_an_unknown_collection_is_refused_with_those_that_exist(sample: Path) -> None:
    with pytest.raises(InputError) as error:
        read(config(sample, "faiss", "memorise"))

    assert f"there is no collection memorise in {sample}/store" == error.value.message
    assert "mem0" in (error.value.hint or "")


def test_a_missing_folder_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder at"):
        read(config(tmp_path / "nowhere", "faiss"))

    assert not (tmp_path / "nowhere").exists()


def faiss(folder: Path, *, vectors: int, **docstores: Any) -> dict[str, Any]:
    """A folder with an index of so many vectors, and docstores by their kind, the last one newest."""
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
def test_of_two_docstores_the_newer_one_counts(tmp_path: Path, docstores: dict[str, Any]) -> None:
    [row] = read(faiss(tmp_path, vectors=1, **docstores))

    assert isinstance(row, Memory)
    assert "new" == row.memory


def test_vectors_without_a_memory_are_noted(tmp_path: Path) -> None:
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
def test_a_truncated_docstore_is_refused(tmp_path: Path, docstores: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is not a docstore of Mem0, or is truncated"):
        read(faiss(tmp_path, vectors=1, **docstores))


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/this-must-not-exist",)


def test_a_malicious_docstore_is_refused_by_name_and_never_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"names the class {os.name}.system"):
        read(faiss(tmp_path, vectors=1, pkl=pickle.dumps(({"m1": Malicious()}, {}))))

    assert not Path("/tmp/this-must-not-exist").exists()
