"""A first plan makes the index of planned facts at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger, new_memories
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.records import Filters, Memory
from spectron_migrate.reporter import NullReporter
from tests.support.dumping import memory, scan


def plan(ledger: Ledger, folder: Path, rows: list[Memory]) -> None:
    scan(folder, list(rows))
    make_plan(
        ledger,
        open_dump(folder),
        load_mapping(None),
        Filters(),
        context="test",
        now="2026-01-01T00:00:00.000000Z",
        reporter=NullReporter(),
    )


def indexes(ledger: Ledger) -> list[tuple[str, str]]:
    found = ledger.db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name")
    return [(row["name"], row["sql"]) for row in found]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_after_a_plan_and_after_one_that_is_refused_the_indexes_are_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(new_memories, "_MOST_ROWS", 2)
    rows = [memory(f"m{number}") for number in range(count)]
    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        before = indexes(ledger)
        with pytest.raises(InputError, match="no rule"):
            plan(ledger, tmp_path / "refused", [*rows, memory("of nobody", user=None)])
        assert before == indexes(ledger)

        plan(ledger, tmp_path / "planned", rows)

        assert before == indexes(ledger)
        [planned] = ledger.db.execute(
            "SELECT count(*) FROM fact INDEXED BY fact_planned WHERE state = 'planned'"
        ).fetchone()
        assert count == planned
        assert [("ok",)] == [tuple(row) for row in ledger.db.execute("PRAGMA integrity_check")]
