"""After a replay it is told what Spectron is unsure about: how many, whose, and the newest with both texts."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spectron_migrate.cli.app import run
from spectron_migrate.cli.replay_screen import draw
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.state.uncertain import Uncertainties, last_uncertainties
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow

LABELLED = 'version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\nlabels: {mem0_id: "{id}"}\n'


def replayed(server: RunningServer, folder: Path, *, mapping: str = LABELLED) -> ReplaySummary:
    """Two users say first one thing, then perhaps another."""
    (folder / "mapping.yaml").write_text(mapping)
    rows = [
        memory(0, "anna", "Lives in Lisbon"),
        memory(1, "anna", "Maybe lives in Porto"),
        memory(0, "bo", "Works at Siemens"),
        memory(1, "bo", "Maybe works at Bosch"),
        memory(2, "bo", "Drives a tram"),
    ]
    dump = write_raw(folder / "all.json", rows)
    return replay(server, folder / "state", [dump], mapping=folder / "mapping.yaml")


def uncertain_of(summary: ReplaySummary) -> Uncertainties:
    assert summary.uncertain is not None
    return summary.uncertain


def test_what_is_uncertain_is_counted_by_user_and_the_newest_has_both_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_here(tmp_path / "spectron", context="unsure") as server:
        summary = replayed(server, tmp_path)

    found = uncertain_of(summary)
    assert (2, {"anna": 1, "bo": 1}) == (found.count, found.by_user)
    first: Any = found.first
    by_memory = {first["memory"]: first["text"], **{row["memory"]: row["text"] for row in first["others"]}}
    assert by_memory in (
        {"anna-0001": "Maybe lives in Porto", "anna-0000": "Lives in Lisbon"},
        {"bo-0001": "Maybe works at Bosch", "bo-0000": "Works at Siemens"},
    )
    assert found == last_uncertainties(tmp_path / "state")
    assert "Maybe" not in str(summary.to_json())
    screen = Console(file=StringIO(), width=80)
    for part in draw(summary):
        screen.print(part)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "Spectron is unsure about person/user" in shown
    assert "Maybe" in shown
    run(["status", "--state", str(tmp_path / "state")])
    assert "2: anna 1, bo 1" in capsys.readouterr().out


def test_without_a_label_nobody_can_be_named(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="unsure") as server:
        summary = replayed(server, tmp_path, mapping=LABELLED.replace('{mem0_id: "{id}"}', "{a: b}"))

    assert (0, 2) == (uncertain_of(summary).count, uncertain_of(summary).unlabelled)


def test_an_older_generation_does_not_say_it(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="unsure", api="0.2.1") as server:
        summary = replayed(server, tmp_path)

    assert not uncertain_of(summary).known
    assert uncertain_of(summary).sentence().startswith("cannot be known: this Spectron does not list")
