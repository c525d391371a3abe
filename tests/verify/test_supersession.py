"""An older fact that superseded a newer one is found, and what the server does not list is not judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import FILLED_TEXTS, Filled, failed_gates, named_findings, tampering, verify

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("links_too", [True, False])
def test_an_older_fact_that_superseded_a_newer_one_is_named(filled: Filled, *, links_too: bool) -> None:
    with tampering(filled.server) as db:
        newer, older = db.execute(
            "SELECT new.id, old.id FROM attribute AS new JOIN attribute AS old ON new.supersedes = old.id"
            " JOIN selector ON selector.number = new.selector"
            " WHERE selector.clauses LIKE '%user/anna/%' AND new.key = 'food_preference'"
        ).fetchone()
        db.execute("UPDATE attribute SET valid_until = NULL WHERE id = ?", (older,))
        db.execute("UPDATE attribute SET valid_until = created_at WHERE id = ?", (newer,))
        if links_too:
            db.execute("UPDATE attribute SET superseded_by = NULL, supersedes = ? WHERE id = ?", (newer, older))
            db.execute("UPDATE attribute SET superseded_by = ?, supersedes = NULL WHERE id = ?", (older, newer))
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("superseded_wrongly", "anna-0003")} == named_findings(summary)
    assert ["supersession"] == failed_gates(summary)


def test_supersession_is_not_measured_if_the_server_does_not_list_entities(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, text) for number, text in enumerate(FILLED_TEXTS)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "400" if "/entities" in seen.path else "none"
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    gate = next(gate for gate in summary.gates if gate.name == "supersession")
    assert gate.passed is None
    assert gate.measured is False
    assert "INCONCLUSIVE" == summary.verdict
