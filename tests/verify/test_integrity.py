"""Missing, altered, doubled, foreign and disordered turns are found, and named by memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.options import VerifyOptions
from tests.support.ledgers import facts_of
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import FILLED_TEXTS, Filled, failed_gates, named_findings, tampering, verify

pytestmark = pytest.mark.slow


def test_a_removed_memory_is_named_missing(filled: Filled) -> None:
    with tampering(filled.server) as db:
        (turn,) = db.execute(
            "SELECT turns.id FROM turns WHERE content = ? AND scopes LIKE '%user/bo%'", (FILLED_TEXTS[2],)
        ).fetchone()
        db.execute("DELETE FROM turn WHERE id = ?", (turn,))
        db.execute("DELETE FROM item WHERE turn = ?", (turn,))
    summary = verify(filled.server, filled.state, [filled.dump])
    assert ExitCode.NO_GO == summary.exit_code
    assert {("missing", "bo-0002")} == named_findings(summary)
    integrity = summary.to_json()["integrity"]
    assert 12 == integrity["expected"]
    assert 11 == integrity["present"]
    assert ["bo-0002"] == integrity["missing"]


def test_a_changed_text_is_named_altered(filled: Filled) -> None:
    with tampering(filled.server) as db:
        changed = db.execute(
            "UPDATE turn SET content = 'Has a poodle called Biscuit' WHERE content = ? AND session IN"
            " (SELECT id FROM sessions WHERE scopes LIKE '%user/anna%')",
            (FILLED_TEXTS[2],),
        )
        assert 1 == changed.rowcount
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("altered", "anna-0002")} == named_findings(summary)
    assert ["altered"] == failed_gates(summary)
    assert ExitCode.NO_GO == summary.exit_code


def test_masked_texts_are_reported_as_masked(filled: Filled) -> None:
    with tampering(filled.server) as db:
        db.execute("UPDATE turn SET content = 'Has a beagle called [NAME]' WHERE content = ?", (FILLED_TEXTS[2],))
    summary = verify(filled.server, filled.state, [filled.dump])
    hint = next(gate.hint for gate in summary.gates if gate.name == "altered")
    assert {("altered", "anna-0002"), ("altered", "bo-0002")} == named_findings(summary)
    assert "redaction is on" in hint


def test_a_memory_written_twice_into_our_session_is_named_doubled(filled: Filled) -> None:
    with tampering(filled.server) as db:
        db.execute(
            "INSERT INTO turn SELECT 'turn_again', session, seq + 100, role, content, created_at, said_at FROM turn"
            " WHERE content = ? AND session IN (SELECT id FROM sessions WHERE scopes LIKE '%user/bo%')",
            (FILLED_TEXTS[1],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("doubled", "bo-0001")} == named_findings(summary)
    assert ["doubled"] == failed_gates(summary)


def test_a_memory_written_twice_through_another_session_is_named_doubled(filled: Filled) -> None:
    async def write_again() -> None:
        server = filled.server
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session((("user/bo",),))
            body = f'{{"infer":"none","session_id":"{session.id}","text":"{FILLED_TEXTS[4]}"}}'
            assert 200 == (await api.post_fact(body.encode(), key="somebody-else")).status

    asyncio.run(write_again())
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("doubled", "bo-0004")} == named_findings(summary)
    assert ExitCode.NO_GO == summary.exit_code


def test_a_foreign_turn_in_our_session_is_reported(filled: Filled) -> None:
    with tampering(filled.server) as db:
        db.execute(
            "INSERT INTO turn SELECT 'turn_foreign', session, seq + 100, role, 'An unheard-of sentence', created_at,"
            " said_at FROM turn WHERE content = ?",
            (FILLED_TEXTS[0],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert ["foreign"] == failed_gates(summary)
    assert 2 == summary.report["measured"]["integrity"]["foreign"]


def test_a_turn_out_of_order_is_named(filled: Filled) -> None:
    with tampering(filled.server) as db:
        db.execute(
            "UPDATE turn SET seq = seq + 50 WHERE content = ? AND session IN"
            " (SELECT id FROM sessions WHERE scopes LIKE '%user/anna%')",
            (FILLED_TEXTS[0],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("order", "anna-0000")} == named_findings(summary)
    assert ["order"] == failed_gates(summary)


def test_turns_of_failed_writes_are_residue_until_accepted(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user), memory(1, user)])
    replay(spectron, tmp_path / "state", [dump])
    with Ledger.open_for_writing(tmp_path / "state") as ledger, ledger.transaction() as db:
        # As if the server had stored the text twice for one write, and delivery had found that out.
        written = facts_of(ledger, "version.mem0_id = ?", f"{user}-0001")[0]
        residue = (written["session"], written["turn_id"], written["id"])
        db.execute("INSERT INTO residue(session, turn_id, fact) VALUES (?, ?, ?)", residue)
        db.execute("UPDATE receipt SET turn_id = 'turn-gone' WHERE fact = ?", (written["id"],))
    summary = verify(spectron, tmp_path / "state", [dump])
    accepted = verify(spectron, tmp_path / "state", [dump], VerifyOptions(accepted_gates=frozenset({"residue"})))
    assert 1 == summary.report["measured"]["integrity"]["residue"]
    assert [False, True] == [
        next(gate.accepted for gate in each.gates if gate.name == "residue") for each in (summary, accepted)
    ]
    assert {("missing", f"{user}-0001")} == named_findings(summary)
