"""Dry runs: a plan without a server, on a copy of the ledger or in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.ledger import Ledger
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.dry_run import DryRun
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from tests.support.spectron import memory, write_raw


def test_a_dry_run_needs_no_server_and_leaves_no_trace(tmp_path: Path, user: str) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(9)])
    before = sorted(tmp_path.rglob("*"))
    with open_any([dump]) as opened:
        step = DryRun(tmp_path / "state", opened, load_mapping(None), ReplayOptions(), reporter=NullReporter())
        summary = step.run(context="anything")
    assert 9 == summary.planned
    assert 9 == summary.remaining
    assert 1 == summary.scopes
    assert 1 == summary.lanes
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.ledger_file  # a database is always read in place
def test_a_dry_run_of_a_plan_that_is_there_reads_the_ledger_in_place(
    tmp_path: Path, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(9)])
    with open_any([raw]) as dump:

        def dry_run(state: Path) -> ReplaySummary:
            step = DryRun(state, dump, load_mapping(None), ReplayOptions(), reporter=NullReporter())
            return step.run(context="c")

        planned_anew = dry_run(tmp_path / "none")
        with Ledger.open_for_writing(tmp_path / "state") as ledger:
            make_plan(
                ledger,
                dump,
                load_mapping(None),
                Filters(),
                context="c",
                now="2026-01-01T00:00:00.000000Z",
                reporter=NullReporter(),
            )
        before = (tmp_path / "state" / "ledger.db").read_bytes()
        monkeypatch.delattr(Ledger, "scratch_copy")

        read_in_place = dry_run(tmp_path / "state")

    assert planned_anew.to_json() == read_in_place.to_json()
    assert before == (tmp_path / "state" / "ledger.db").read_bytes()
