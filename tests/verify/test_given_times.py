"""An older memory written over a newer one is found, although writer and verification sort by the same wrong key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.ledger import memory_rows
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.records import Memory, order_key
from spectron_migrate.verify.given_times import GivenTimes
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import failed_gates, named_findings, verify

READ_AT = datetime(2026, 1, 1, tzinfo=UTC)
MARCH, APRIL = "2025-03-01T10:00:00+00:00", "2025-04-01T10:00:00+00:00"


@pytest.mark.slow
@pytest.mark.both_engines
def test_older_memories_after_a_newer_one_are_named(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newest_first(row: Memory, scanned_at: str) -> str:
        return order_key(row, scanned_at).translate(str.maketrans("0123456789", "9876543210"))

    monkeypatch.setattr(memory_rows, "order_key", newest_first)
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump])
    assert {("order", f"{user}-0000"), ("order", f"{user}-0001")} == named_findings(summary)
    assert ["order"] == failed_gates(summary)


@pytest.mark.slow
def test_a_memory_that_mem0_dates_anew_without_another_text_was_in_order(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user) for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    rows[2] |= {"created_at": "2024-01-01T09:00:00+00:00", "updated_at": None}
    write_raw(dump, rows)
    replay(spectron, tmp_path / "state", [dump])
    assert set() == named_findings(verify(spectron, tmp_path / "state", [dump]))


def record(**fields: Any) -> dict[str, Any]:
    return {"created_at": MARCH, "updated_at": APRIL, "text_at_source": "updated_at", "extra": {}, **fields}


@pytest.mark.parametrize(
    "given",
    [
        {"text_at_source": "history"},
        {"text_at_source": "none", "created_at": None, "updated_at": None},
        {"created_at": "2026-02-01T00:00:00+00:00"},
        {"created_at": "2025-03-01T10:00:00"},
        {"extra": {"as_given": {"created_at": "yesterday"}}},
        {"extra": {"as_given": {"created_at": 1740823200}}},
        {"created_at": "1970-01-01T00:00:00+00:00"},
    ],
    ids=["by history", "no time", "after the reading", "zones mixed", "no ISO 8601", "a number", "1970"],
)
def test_times_that_do_not_say_when_the_text_came_to_be_count_for_nothing(given: Mapping[str, Any]) -> None:
    assert GivenTimes.of_record(record(**given), READ_AT) is None


def test_the_times_count_as_mem0_gave_them() -> None:
    as_given = {"created_at": "2025-03-01T10:00:00", "updated_at": "2025-04-01 10:00:00"}
    times = GivenTimes.of_record(record(extra={"as_given": as_given}), READ_AT)
    assert GivenTimes(datetime(2025, 3, 1, 10), datetime(2025, 4, 1, 10)) == times
