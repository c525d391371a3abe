"""A Spectron that was changed behind its back is found out, memory by memory; an untouched one is not blamed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, WrongLedger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.options import VerifyOptions
from tests.support.here import server_here
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw
from tests.verify.between import between
from tests.verify.support import behind_its_back, failed, kinds, verify

TEXTS = [
    "Prefers vegetarian food",
    "Lives in Lisbon near the old harbour",
    "Has a beagle called Biscuit",
    "Now eats fish",
    "Works at the observatory as an optician",
    "Plays the cello on Sundays",
]


@dataclass(frozen=True)
class Filled:
    """A server of its own with two users' memories."""

    server: RunningServer
    state: Path
    dump: Path


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with server_here(tmp_path / "spectron", context="tampered") as server:
        rows = [memory(number, user, text) for user in ("anna", "bo") for number, text in enumerate(TEXTS)]
        dump = write_raw(tmp_path / "all.json", rows)
        assert ExitCode.DONE == replay(server, tmp_path / "state", [dump]).exit_code
        yield Filled(server, tmp_path / "state", dump)


def test_an_untouched_spectron_is_a_go_and_verifying_twice_says_the_same(filled: Filled) -> None:
    for _ in range(2):
        summary = verify(filled.server, filled.state, [filled.dump])
        integrity = summary.report["measured"]["integrity"]
        assert ("GO", ExitCode.DONE) == (summary.verdict, summary.exit_code)
        assert (12, 12, set()) == (integrity["expected"], integrity["present"], kinds(summary))


def test_a_removed_memory_is_named_missing(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        (turn,) = db.execute(
            "SELECT turns.id FROM turns WHERE content = ? AND scopes LIKE '%user/bo%'", (TEXTS[2],)
        ).fetchone()
        db.execute("DELETE FROM turn WHERE id = ?", (turn,))
        db.execute("DELETE FROM item WHERE turn = ?", (turn,))
    summary = verify(filled.server, filled.state, [filled.dump])
    assert ExitCode.NO_GO == summary.exit_code
    assert {("missing", "bo-0002")} == kinds(summary)
    integrity = summary.to_json()["integrity"]
    assert (12, 11, ["bo-0002"]) == (integrity["expected"], integrity["present"], integrity["missing"])


def test_a_changed_text_is_named_altered(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        changed = db.execute(
            "UPDATE turn SET content = 'Has a poodle called Biscuit' WHERE content = ? AND session IN"
            " (SELECT id FROM sessions WHERE scopes LIKE '%user/anna%')",
            (TEXTS[2],),
        )
        assert 1 == changed.rowcount
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("altered", "anna-0002")} == kinds(summary)
    assert ["altered"] == failed(summary)
    assert ExitCode.NO_GO == summary.exit_code


def test_masked_texts_are_said_to_be_masked(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        db.execute("UPDATE turn SET content = 'Has a beagle called [NAME]' WHERE content = ?", (TEXTS[2],))
    summary = verify(filled.server, filled.state, [filled.dump])
    hint = next(gate.hint for gate in summary.gates if gate.name == "altered")
    assert {("altered", "anna-0002"), ("altered", "bo-0002")} == kinds(summary)
    assert "redaction is on" in hint


def test_a_memory_in_another_scope_is_named_misplaced_and_a_leak(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        db.execute(
            "UPDATE item SET selector = (SELECT number FROM selector WHERE clauses LIKE '%user/bo/%')"
            " WHERE text = ? AND selector = (SELECT number FROM selector WHERE clauses LIKE '%user/anna/%')",
            (TEXTS[5],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("misplaced", "anna-0005")} <= kinds(summary)
    assert {"anna-0005"} == {mem0_id for _, mem0_id in kinds(summary)}
    reason = next(one["reason"] for one in summary.report["findings"] if one["kind"] == "misplaced")
    assert "in another scope" in reason
    assert ExitCode.NO_GO == summary.exit_code


def test_a_memory_written_twice_into_our_session_is_named_doubled(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        db.execute(
            "INSERT INTO turn SELECT 'turn_again', session, seq + 100, role, content, created_at, said_at FROM turn"
            " WHERE content = ? AND session IN (SELECT id FROM sessions WHERE scopes LIKE '%user/bo%')",
            (TEXTS[1],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("doubled", "bo-0001")} == kinds(summary)
    assert ["doubled"] == failed(summary)


def test_a_memory_written_twice_through_another_session_is_named_doubled(filled: Filled) -> None:
    async def write_again() -> None:
        server = filled.server
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session((("user/bo",),))
            body = f'{{"infer":"none","session_id":"{session.id}","text":"{TEXTS[4]}"}}'
            assert 200 == (await api.post_fact(body.encode(), key="somebody-else")).status

    asyncio.run(write_again())
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("doubled", "bo-0004")} == kinds(summary)
    assert ExitCode.NO_GO == summary.exit_code


def test_a_turn_of_somebody_else_in_our_session_is_said(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        db.execute(
            "INSERT INTO turn SELECT 'turn_foreign', session, seq + 100, role, 'An unheard-of sentence', created_at,"
            " said_at FROM turn WHERE content = ?",
            (TEXTS[0],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert ["foreign"] == failed(summary)
    assert 2 == summary.report["measured"]["integrity"]["foreign"]


def test_turns_in_another_order_are_named(filled: Filled) -> None:
    with behind_its_back(filled.server) as db:
        db.execute(
            "UPDATE turn SET seq = seq + 50 WHERE content = ? AND session IN"
            " (SELECT id FROM sessions WHERE scopes LIKE '%user/anna%')",
            (TEXTS[0],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("order", "anna-0000")} == kinds(summary)
    assert ["order"] == failed(summary)


@pytest.mark.parametrize("links_too", [True, False])
def test_an_older_fact_over_a_newer_one_is_named(filled: Filled, *, links_too: bool) -> None:
    with behind_its_back(filled.server) as db:
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
    assert {("superseded_wrongly", "anna-0003")} == kinds(summary)
    assert ["supersession"] == failed(summary)


def test_a_server_that_lost_everything_is_another_server_and_no_verdict(filled: Filled, tmp_path: Path) -> None:
    with (
        server_here(tmp_path / "empty", context="tampered") as other,
        pytest.raises(WrongLedger, match="has none of the turns"),
    ):
        verify(other, filled.state, [filled.dump])


def test_a_server_that_does_not_tell_its_entities_leaves_that_layer_unmeasured_and_says_so(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, text) for number, text in enumerate(TEXTS)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "400" if "/entities" in seen.path else "none"
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    gate = next(gate for gate in summary.gates if gate.name == "supersession")
    assert (None, False, False) == (gate.passed, gate.measured, gate.decides)
    assert "GO" == summary.verdict


def test_the_newer_generation_of_the_service_is_verified_as_well(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="newer", api="0.2.1") as server:
        rows = [memory(number, user, text) for user in ("anna", "bo") for number, text in enumerate(TEXTS)]
        dump = write_raw(tmp_path / "all.json", rows)
        replay(server, tmp_path / "state", [dump])
        summary = verify(server, tmp_path / "state", [dump])
    gate = next(gate for gate in summary.gates if gate.name == "supersession")
    assert ("GO", True, set()) == (summary.verdict, gate.passed, kinds(summary))


def test_what_only_a_cache_answers_with_is_neither_placed_nor_misplaced(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, text) for number, text in enumerate(TEXTS)])
    replay(spectron, tmp_path / "state", [dump])

    def cached(path: str, asked: Any, answer: Any) -> Any:
        about_cello = path.endswith("/query") and "cello" in asked["query"].casefold()
        return {**answer, "tier": "cache"} if about_cello else answer

    with between(spectron.base_url, cached) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=1), endpoint=endpoint)
    assert {("untestable", f"{user}-0005")} == kinds(summary)
