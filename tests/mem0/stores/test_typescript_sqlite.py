"""The default store of Mem0 for TypeScript is read row for row, with its history, and stays as it was.

The files in `tests/data/mem0/typescript-3.3.1` were written by npm `mem0ai` 3.3.1: 12 memories added with
`infer: false`, one updated, one deleted.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.mem0.normalise import ENTITY_ROW
from spectron_migrate.mem0.open import open_oss
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.records import Filters, Memory
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import DATA, NOW

STORE = DATA / "typescript-3.3.1"


def config(file: Path, history: Path) -> dict[str, Any]:
    store = {"provider": "memory", "config": {"db_path": str(file)}}
    return {"vector_store": store, "history_db_path": str(history)}


def export(settings: dict[str, Any], dump: Path) -> ExportSummary:
    with open_oss(settings, now=NOW) as reader:
        return run_export(
            reader,
            dump,
            filters=Filters(),
            since=None,
            keep_history=True,
            reporter=NullReporter(),
            clock=lambda: datetime.now(UTC),
        )


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def payloads(name: str) -> dict[str, dict[str, Any]]:
    with sqlite3.connect(f"file:{STORE / name}?mode=ro", uri=True) as db:
        return {row_id: json.loads(text) for row_id, text in db.execute("SELECT id, payload FROM vectors")}


def test_every_row_is_exported_with_its_history_and_no_byte_changes(tmp_path: Path) -> None:
    before = fingerprint(STORE)
    expected = payloads("vector_store.db")

    summary = export(config(STORE / "vector_store.db", STORE / "memory.db"), tmp_path / "dump")

    assert summary.complete is True
    assert 11 == summary.memories == len(expected)
    assert before == fingerprint(STORE)
    with open_dump(tmp_path / "dump") as dump:
        found = {row.id: row for row in dump.memories()}
        assert 14 == len(list(dump.history()))
    for memory_id, payload in expected.items():
        row = found[memory_id]
        assert payload["data"] == row.memory
        assert payload["user_id"] == row.user_id
        assert payload.get("agent_id") == row.agent_id
        assert {name: payload[name] for name in ("topic", "n", "nested", "created_at")} == row.metadata
        assert payload["createdAt"].replace("Z", "000Z") == row.created_at
        assert "history" == row.text_at_source
    [edited] = [row for row in found.values() if row.updated_at is not None]
    assert edited.text_at == edited.updated_at


def test_entities_are_no_memories_wherever_they_lie(tmp_path: Path) -> None:
    with open_oss(config(STORE / "vector_store_entities.db", tmp_path / "none"), now=NOW) as reader:
        rows = list(reader.rows())

    assert rows
    assert {ENTITY_ROW} == {"" if isinstance(row, Memory) else row.reason for row in rows}


def test_a_payload_that_cannot_be_read_makes_the_export_incomplete(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE vectors (id TEXT PRIMARY KEY, vector BLOB NOT NULL, payload TEXT NOT NULL)")
        db.execute("INSERT INTO vectors VALUES ('m1', x'00', ?)", (json.dumps({"data": "tea", "user_id": "dana"}),))
        db.execute("INSERT INTO vectors VALUES ('m2', x'00', '{torn')")

    summary = export(config(file, tmp_path / "none"), tmp_path / "dump")

    assert summary.complete is False
    assert ["m2"] == [row.id for row in summary.skipped]


@pytest.mark.parametrize("tables", ["", "CREATE TABLE other (id TEXT)"])
def test_another_database_is_refused(tmp_path: Path, tables: str) -> None:
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute(tables or "CREATE TABLE x (y)")

    with pytest.raises(InputError, match="no table `vectors`"):
        open_oss(config(tmp_path / "other.db", tmp_path / "none"), now=NOW)
    with pytest.raises(InputError, match="no store of Mem0 for TypeScript"):
        open_oss(config(tmp_path / "missing.db", tmp_path / "none"), now=NOW)
