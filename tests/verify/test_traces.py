"""Every fact that Spectron made is traced to its memory, and found where it should not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import failed_gates, gate_named, named_findings, tampering, verify

pytestmark = pytest.mark.slow

LABELLED = 'version: 1\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\nlabels: {mem0_id: "{id}"}\n'
TEXTS = ["Lives in Lisbon", "Works at Siemens", "Drives a tram", "Now lives in Porto"]


def written(server: RunningServer, folder: Path, mapping: str = LABELLED) -> dict[str, Any]:
    """Memories of two users are replayed; what a verification of them takes."""
    (folder / "mapping.yaml").write_text(mapping)
    rows = [memory(number, user, text) for user in ("anna", "bo") for number, text in enumerate(TEXTS)]
    dump = write_raw(folder / "all.json", rows)
    replay(server, folder / "state", [dump], mapping=folder / "mapping.yaml")
    return {"state": folder / "state", "dumps": [dump], "mapping": folder / "mapping.yaml"}


def test_every_attribute_and_relation_is_traced_to_its_memory(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="traced") as server:
        summary = verify(server, **written(server, tmp_path))

    traced = summary.report["measured"]["integrity"]["traced"]
    assert {"told": True, "why": "", "attributes": 6, "relations": 4, "untraced": 0, "elsewhere": 0} == traced
    assert True is gate_named(summary, "facts").passed


def test_a_fact_in_another_scope_than_its_memory_is_named(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="traced") as server:
        given = written(server, tmp_path)
        with tampering(server) as db:
            (bo,) = db.execute("SELECT number FROM selector WHERE clauses LIKE '%user/bo/%'").fetchone()
            db.execute("UPDATE attribute SET selector = ? WHERE value = 'a tram' AND labels LIKE '%anna-0002%'", (bo,))
        summary = verify(server, **given)

    assert {("misplaced_fact", "anna-0002")} == named_findings(summary)
    assert ["facts"] == failed_gates(summary)


def test_a_row_that_no_receipt_names_is_traced_by_its_label(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="traced") as server:
        given = written(server, tmp_path)
        with tampering(server) as db:
            db.execute("UPDATE item SET id = 'attr_other' WHERE kind = 'attribute' AND labels LIKE '%anna-0002%'")
            db.execute("UPDATE attribute SET id = 'attr_other' WHERE value = 'a tram' AND labels LIKE '%anna-0002%'")
        summary = verify(server, **given)

    assert 6 == summary.report["measured"]["integrity"]["traced"]["attributes"]


@pytest.mark.parametrize("api", ["0.0.0", "0.2.1"])
def test_what_an_older_generation_does_not_show_cannot_be_known(tmp_path: Path, api: str) -> None:
    with server_here(tmp_path / "spectron", context="traced", api=api) as server:
        summary = verify(server, **written(server, tmp_path))

    gate = gate_named(summary, "facts")
    assert not gate.measured
    assert "API before 0.3.0" in gate.hint
    assert "GO" == summary.verdict
