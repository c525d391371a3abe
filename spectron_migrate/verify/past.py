"""Earlier verifications of a migration, one line for each in `verdicts.jsonl`: gates and counts, no texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spectron_migrate.records import Json
from spectron_migrate.state.store import StateStore, store_at

FILE = "verdicts.jsonl"
MOST = 50
"""How many are kept: the newest."""


def read_past(store: Path | StateStore, migration: str | None) -> list[dict[str, Json]]:
    """The verifications of a migration about all users, oldest first; a line that cannot be read is left out."""
    found = []
    for line in store_at(store).lines(FILE):
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("migration") == migration:
                found.append(row)
    return found


def as_past(report: Mapping[str, Json]) -> dict[str, Json]:
    """The part of a report that is kept."""
    integrity, recall = report["measured"]["integrity"], report["measured"]["recall"]
    success = recall["metrics"]["success"] if recall else {"mem0": None, "spectron": None}
    return {
        "migration": report["migration"],
        "ended": report["ended"],
        "verdict": report["verdict"],
        "expected": integrity["expected"],
        "present": integrity["present"],
        "leaks": report["measured"]["isolation"]["leaks"],
        "mem0": success["mem0"],
        "spectron": success["spectron"],
        "open": [
            gate["name"] for gate in report["gates"] if gate["decides"] and not (gate["passed"] or gate["accepted"])
        ],
    }


def keep(store: Path | StateStore, report: Mapping[str, Json]) -> None:
    """Append a report's line, and drop the oldest ones."""
    rows = [*read_past(store, report["migration"]), as_past(report)][-MOST:]
    store_at(store).write_lines(FILE, [f"{json.dumps(row)}\n".encode() for row in rows])
