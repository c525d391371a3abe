"""Earlier verdicts are kept beside the report, of this migration alone, and no more than some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.verify import past


def report(ended: str, migration: str = "m", **more: Any) -> dict[str, Any]:
    gates = [
        {"name": "missing", "passed": True, "decides": True, "accepted": False},
        {"name": "recall", "passed": None, "decides": True, "accepted": False},
        {"name": "asked", "passed": False, "decides": True, "accepted": True},
        {"name": "overlap", "passed": False, "decides": False, "accepted": False},
    ]
    measured = {"integrity": {"expected": 3, "present": 2}, "isolation": {"leaks": 0}, "recall": None}
    return {
        "migration": migration,
        "ended": ended,
        "verdict": "INCONCLUSIVE",
        "gates": gates,
        "measured": measured,
        **more,
    }


def test_nothing_is_known_of_a_directory_without_verdicts(tmp_path: Path) -> None:
    assert [] == past.read_past(tmp_path, "m")


def test_verdicts_are_kept_in_order_with_the_gates_that_were_open(tmp_path: Path) -> None:
    for ended in ("2026-01-01", "2026-01-02"):
        past.keep(tmp_path, report(ended))
    found = past.read_past(tmp_path, "m")
    assert ["2026-01-01", "2026-01-02"] == [one["ended"] for one in found]
    assert ["recall"] == found[0]["open"]


@pytest.mark.ledger_file  # a row has no mode
def test_verdicts_are_for_their_owner_alone(tmp_path: Path) -> None:
    past.keep(tmp_path, report("2026-01-01"))
    assert 0o600 == (tmp_path / past.FILE).stat().st_mode & 0o777


def test_only_the_newest_are_kept_and_those_of_another_migration_go(tmp_path: Path) -> None:
    past.keep(tmp_path, report("2025", "other"))
    for number in range(past.MOST + 5):
        past.keep(tmp_path, report(f"{number:03}"))
    found = past.read_past(tmp_path, "m")
    assert past.MOST == len(found)
    assert "005" == found[0]["ended"]
    assert [] == past.read_past(tmp_path, "other")


@pytest.mark.ledger_file  # of the disk
def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    past.keep(tmp_path, report("2026-01-01"))
    with (tmp_path / past.FILE).open("a") as file:
        file.write('{"ended": "2026')
    assert 1 == len(past.read_past(tmp_path, "m"))
