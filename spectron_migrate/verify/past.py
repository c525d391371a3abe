"""What earlier verifications of a migration found, one line each in `verdicts.jsonl`: gates and counts, no texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spectron_migrate.files.atomic import replace_file
from spectron_migrate.records import Json

FILE = "verdicts.jsonl"
MOST = 50
"""So many are kept, the newest."""


def read_past(folder: Path, migration: str | None) -> list[dict[str, Json]]:
    """The verifications of a migration about all users, oldest first; a line that cannot be read is left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("migration") == migration:
                found.append(row)
    return found


def as_past(report: Mapping[str, Json]) -> dict[str, Json]:
    """What is kept of a report."""
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


def keep(folder: Path, report: Mapping[str, Json]) -> None:
    """Append a report's line, and drop the oldest ones."""
    rows = [*read_past(folder, report["migration"]), as_past(report)][-MOST:]
    replace_file(folder / FILE, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
