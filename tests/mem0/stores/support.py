"""Folders that Mem0 wrote, and reading them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from spectron_migrate.mem0.open import open_oss
from spectron_migrate.records import Memory, Skipped
from tests.mem0.conftest import NOW

Row = dict[str, Any]
OWN_METADATA = ("topic", "seq", "prio", "flag", "tags")


def fingerprints(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def config(folder: Path, provider: str, collection: str = "mem0") -> dict[str, Any]:
    """The Mem0 configuration of a folder with a store in it."""
    store = {"provider": provider, "config": {"path": str(folder / "store"), "collection_name": collection}}
    return {"vector_store": store, "history_db_path": str(folder / "history.db")}


def read(settings: dict[str, Any], notes: list[str] | None = None) -> list[Memory | Skipped]:
    """All rows of a store, whose number has to be what the store says."""
    with open_oss(settings, now=NOW, sleep=lambda seconds: None) as reader:
        rows = list(reader.rows())
        assert len(rows) == reader.native_count()
        if notes is not None:
            notes.extend(reader.notes)
        return rows


def stored_rows(folder: Path) -> dict[str, Row]:
    """The rows of a folder as Mem0's own class listed them, without times and hashes."""
    rows = json.loads((folder / "raw.json").read_text("utf-8"))
    names = ("data", "user_id", "agent_id", "run_id", *OWN_METADATA)
    return {row["id"]: {name: row["payload"][name] for name in names if name in row["payload"]} for row in rows}


def as_stored(rows: list[Memory | Skipped]) -> dict[str, Row]:
    """Memories that were read, in the form of `stored_rows`."""
    return {
        row.id: {
            "data": row.memory,
            **{name: value for name, value in row.entity_ids.items() if name != "app_id"},
            **row.metadata,
        }
        for row in rows
        if isinstance(row, Memory)
    }
