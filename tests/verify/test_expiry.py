"""Memories that Spectron keeps for seven days only are reported as expiring; that never excuses a loss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.spectron.graph import EntityValue
from spectron_migrate.verify.expiry import expiry_of_facts
from spectron_migrate.verify.options import Query, VerifyOptions
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import WordSearch, answer_to, gate_named, tampering, verify

pytestmark = pytest.mark.slow

BEES = "Prefers vegetarian food"
TEXTS = [BEES, *(f"Keeps geese number {number} in yard {number}" for number in range(5))]
SHORT = "version: 1\ncategory: context\nrules:\n  - {when: {user_id: '*'}, scope: {user: '{user_id}'}}\n"


class BeesFirst(WordSearch):
    """A Mem0 that answers every query with the first memory first."""

    def search(self, query: str, **named: Any) -> list[SearchHit]:
        return [SearchHit(self.rows[0]["id"], self.rows[0]["memory"], None), *super().search(query, **named)][:2]


def asked_about_geese(
    server: RunningServer,
    tmp_path: Path,
    *,
    mapping: Path | None = None,
    now: str = "2025-01-03",
    days: int | None = None,
) -> Any:
    """Verify with a query that is not about the first memory; `days`: age of all memories by the server's clock."""
    at = (datetime.now(UTC) - timedelta(days=days)).isoformat() if days is not None else None
    rows = [memory(number, "anna", text, at=at) for number, text in enumerate(TEXTS)]
    dump = write_raw(tmp_path / "all.json", rows)
    if not (tmp_path / "state").exists():
        replay(server, tmp_path / "state", [dump], mapping=mapping)
    options = VerifyOptions(queries=(Query("geese yard number", user_id="anna"),), top_k=2)
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    return verify(
        server,
        tmp_path / "state",
        [dump],
        options,
        mem0=BeesFirst(rows),
        mapping=mapping,
        now=lambda: moment,
    )


def why(summary: Any) -> Any:
    return next(one for one in answer_to(summary, "geese yard number")["differences"] if one["id"] == "anna-0000")


def test_a_memory_that_the_mapping_writes_as_context_is_about_to_expire(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(SHORT)
    with server_here(tmp_path / "spectron", context="short") as server:
        summary = asked_about_geese(server, tmp_path, mapping=mapping)
    difference = why(summary)
    assert "expiring" == difference["why"]
    assert difference["detail"].startswith(
        "it is about to expire at 2025-01-08T00:00:00.000000Z: Spectron keeps context for 7"
    )
    assert 6 == gate_named(summary, "expiring").value
    assert gate_named(summary, "expiring").passed is None
    assert gate_named(summary, "expiring").decides is False
    assert True is gate_named(summary, "lost").passed


@pytest.mark.parametrize(
    ("api", "days", "detail"),
    [
        ("0.3.0", 1, "its fact is about to expire at "),
        ("0.3.0", 60, "its fact expired at "),
        ("0.0.0", 60, "its fact is no longer there: expired or"),
    ],
)
def test_a_fact_in_spectrons_own_category_context_expires(tmp_path: Path, api: str, days: int, detail: str) -> None:
    with server_here(tmp_path / "spectron", context="bucketed", api=api) as server:
        asked_about_geese(server, tmp_path, days=days)
        with tampering(server) as db:
            db.execute("UPDATE attribute SET category = 'context'")
        summary = asked_about_geese(server, tmp_path, now=datetime.now(UTC).isoformat()[:19], days=days)
    difference = why(summary)
    assert "expiring" == difference["why"]
    assert difference["detail"].startswith(detail)
    assert "expiring" not in [gate.name for gate in summary.gates]


@pytest.mark.parametrize(
    ("now", "expected"), [("2025-01-03", ("lost", "misplaced")), ("2025-02-01", ("expiring", "untestable"))]
)
def test_a_text_that_disappears_is_lost_unless_its_seven_days_are_over(
    tmp_path: Path, now: str, expected: tuple[str, str]
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(SHORT + "infer: none\n")
    with server_here(tmp_path / "spectron", context="gone") as server:
        asked_about_geese(server, tmp_path, mapping=mapping)
        with tampering(server) as db:
            db.execute("DELETE FROM item WHERE text LIKE '%vegetarian%'")
        summary = asked_about_geese(server, tmp_path, mapping=mapping, now=now)
    found = [one["kind"] for one in summary.report["findings"] if one["id"] == "anna-0000"]
    assert expected == (why(summary)["why"], found[0])
    assert ("lost" != expected[0]) == gate_named(summary, "lost").passed


def test_a_memory_that_does_not_expire_is_only_ranked_lower(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="long") as server:
        assert "expiring" != why(asked_about_geese(server, tmp_path))["why"]


def test_the_earliest_expiry_of_its_facts_counts_and_an_unreadable_time_does_not() -> None:
    def value(number: int, known_at: str, category: str = "context", by: str | None = None) -> EntityValue:
        return EntityValue(f"a{number}", "likes", "tea", by, by is None, category, known_at)

    class Fact:
        ids = ("a1", "a2", "a3", "a4", "a5")

    now = datetime(2025, 1, 20, tzinfo=UTC)
    facts: Any = Fact()
    values = [
        value(1, "2025-01-15T00:00:00Z"),
        value(2, "2025-01-10T00:00:00Z"),
        value(3, "2024-01-01T00:00:00Z", "knowledge"),
        value(4, "2024-01-01T00:00:00Z", by="a1"),
        value(5, "long ago"),
        value(6, "2024-01-01T00:00:00Z"),
    ]
    found = expiry_of_facts(facts, values, now)
    assert found is not None
    assert "2025-01-17T00:00:00.000000Z" == found.at
    assert found.over is True
    assert None is expiry_of_facts(facts, values[2:4], now)
