"""Chroma folders that Mem0 wrote are read without Chroma or Mem0, and stay as they are."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory
from tests.mem0.conftest import DATA, NOW, VERSIONS
from tests.mem0.stores.support import as_stored, config, fingerprints, read, stored_rows


@pytest.fixture(params=VERSIONS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a folder that this version of Mem0 wrote."""
    folder = tmp_path / "sample"
    shutil.copytree(DATA / f"{request.param}-chroma", folder)
    return folder


def test_every_row_is_read_unaltered_and_the_folder_stays_as_it_is(sample: Path) -> None:
    before = fingerprints(sample)

    rows = read(config(sample, "chroma"))

    assert before == fingerprints(sample)
    assert stored_rows(sample) == as_stored(rows)


def test_an_unknown_collection_is_refused_with_those_that_exist(sample: Path) -> None:
    with pytest.raises(InputError) as error:
        read(config(sample, "chroma", "memorise"))

    assert f"there is no collection memorise in {sample}/store" == error.value.message
    assert "mem0" in (error.value.hint or "")


def test_a_missing_folder_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder at"):
        read(config(tmp_path / "nowhere", "chroma"))

    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def chroma(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """A copy of the newest Chroma folder, changed by an SQL statement."""

    def changed(statement: str) -> dict[str, Any]:
        shutil.copytree(DATA / "2.2.1-chroma", tmp_path / "c")
        with sqlite3.connect(tmp_path / "c" / "store" / "chroma.sqlite3") as db:
            db.executescript(statement)
        db.close()
        return config(tmp_path / "c", "chroma")

    return changed


def test_rows_only_in_the_queue_count_as_missing(chroma: Callable[[str], dict[str, Any]]) -> None:
    settings = chroma(
        "INSERT INTO embeddings_queue (seq_id, operation, topic, id) SELECT 99, 0, topic, 'late' FROM embeddings_queue "
        "WHERE id IN (SELECT embedding_id FROM embeddings) LIMIT 1"
    )

    with open_oss(settings, now=NOW) as reader:
        assert 10 == len(list(reader.rows()))
        assert 11 == reader.native_count()


def test_a_database_in_wal_mode_is_read_from_a_copy(chroma: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    settings = chroma("")
    path = tmp_path / "c" / "store" / "chroma.sqlite3"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("UPDATE embedding_metadata SET string_value = 'in the wal' WHERE key = 'data'")
    before = fingerprints(tmp_path / "c")

    rows = read(settings)

    assert before == fingerprints(tmp_path / "c")
    assert {"in the wal"} == {row.memory for row in rows if isinstance(row, Memory)}
    writer.close()


def test_pages_join_without_a_gap(chroma: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = chroma("")
    expected = read(settings)
    monkeypatch.setattr("spectron_migrate.mem0.stores.chroma_folder._PAGE", 3)

    assert expected == read(settings)
