"""What searches show and nothing accounts for; and what does account for it, in every generation of the service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory, canonical_json
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.added_tables import DDL, NAME
from spectron_migrate.state.store import store_at
from spectron_migrate.verify.options import VerifyOptions
from tests.support.here import server_here
from tests.support.spectron import memory, register_scope, replay, write_raw
from tests.verify.support import FILLED_TEXTS, PLAIN, Filled, change_ledger, gate_named, tampering, verify
from tests.verify.tampered import long_text

pytestmark = pytest.mark.slow

SAID = "Owes money to a casino in Estoril"
ACCEPTED = VerifyOptions(sample=10, accepted_gates=frozenset({"unaccounted"}))


def say(server: RunningServer, user: str, text: str, infer: str = "none") -> dict[str, Any]:
    """Somebody else writes to the scope of a user; the server's answer."""

    async def write() -> dict[str, Any]:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session(((f"user/{user}",),), {})
            body = {"session_id": session.id, "text": text, "infer": infer}
            answer = await api.post_fact(canonical_json(body).encode(), key=uuid4().hex)
            assert isinstance(answer.body, dict)
            return answer.body

    return asyncio.run(write())


def rows_of(*users: str) -> list[dict[str, Any]]:
    return [
        *(memory(number, user, text) for user in users for number, text in enumerate(FILLED_TEXTS)),
        *(memory(50 + number, user, long_text(user)) for number, user in enumerate(users)),
    ]


@pytest.mark.parametrize("api", ["0.0.0", "0.2.1", "0.3.0"])
@pytest.mark.parametrize("infer", ["full", "none"])
def test_a_clean_migration_is_a_go_and_what_others_write_is_not(tmp_path: Path, api: str, infer: str) -> None:
    with server_here(tmp_path / "spectron", context="strange", api=api) as server:
        mapping = tmp_path / "mapping.yaml"
        mapping.write_text(PLAIN.replace("infer: none", f"infer: {infer}"))
        given: dict[str, Any] = {"dumps": [write_raw(tmp_path / "all.json", rows_of("anna", "bo"))], "mapping": mapping}
        replay(server, tmp_path / "state", **given)
        clean = verify(server, tmp_path / "state", **given)
        say(server, "bo", SAID)
        found = verify(server, tmp_path / "state", **given)
    assert "GO" == clean.verdict
    assert 0 == clean.report["measured"]["unaccounted"]["untold"]
    assert "no such row in" in gate_named(clean, "unaccounted").hint
    assert "NO_GO" == found.verdict
    assert "in user/bo, such as memory_chunk" in gate_named(found, "unaccounted").hint
    assert [SAID] == [each["texts"]["found"] for each in found.report["findings"] if each["kind"] == "unaccounted"]


@pytest.mark.parametrize("infer", ["full", "none"])
def test_after_an_adoption_a_clean_migration_is_a_go(tmp_path: Path, infer: str) -> None:
    with server_here(tmp_path / "spectron", context="strange") as server:
        mapping = tmp_path / "mapping.yaml"
        mapping.write_text(PLAIN.replace("infer: none", f"infer: {infer}"))
        given: dict[str, Any] = {"dumps": [write_raw(tmp_path / "all.json", rows_of("anna", "bo"))], "mapping": mapping}
        replay(server, tmp_path / "lost", **given)
        replay(server, tmp_path / "state", options=ReplayOptions(adopt=True), **given)
        clean = verify(server, tmp_path / "state", **given)
        say(server, "bo", SAID)
        found = verify(server, tmp_path / "state", **given)
    assert "GO" == clean.verdict
    assert "INCONCLUSIVE" == found.verdict  # the scopes were there before this ledger


def test_in_scopes_that_were_there_before_it_is_undecided_until_accepted(filled: Filled, tmp_path: Path) -> None:
    for path in ("user", "user/cleo"):
        register_scope(filled.server, path)
    say(filled.server, "cleo", SAID)
    dump = write_raw(tmp_path / "cleo.json", rows_of("cleo"))
    replay(filled.server, tmp_path / "other", [dump], options=ReplayOptions(into_existing=True))
    summary = verify(filled.server, tmp_path / "other", [dump])
    assert "INCONCLUSIVE" == summary.verdict
    assert gate_named(summary, "unaccounted").passed is None
    assert "GO" == verify(filled.server, tmp_path / "other", [dump], ACCEPTED).verdict


def test_what_adapters_added_after_complete_is_accounted_for(filled: Filled) -> None:
    answer = say(filled.server, "bo", f"{SAID}. {long_text('bo')}", infer="full")
    assert "NO_GO" == verify(filled.server, filled.state, [filled.dump]).verdict
    added = Memory(id="added", memory=f"{SAID}. {long_text('bo')}", user_id="bo")
    tables = store_at(filled.state).tables(NAME, DDL)
    extraction = answer.get("extraction") or {}
    ids = [row["id"] for kind in ("attributes", "entities") for row in extraction.get(kind, [])]
    made = [answer["turnId"], answer["chunkId"], *ids]
    memories, prefix = (canonical_json(added.to_json()),), tables.prefix
    tables.change(
        (f"INSERT INTO {prefix}memory(id, user_id, record) VALUES ('added', 'bo', ?)", [memories]),
        (f"INSERT INTO {prefix}placed VALUES ('added', ?)", [('[["user/bo"]]',)]),
        (f"INSERT INTO {prefix}made VALUES (?, 'added')", [(row,) for row in made]),
    )
    tables.close()
    assert "GO" == verify(filled.server, filled.state, [filled.dump]).verdict


def test_an_attribute_of_a_server_that_names_no_ids_cannot_be_told(filled: Filled) -> None:
    """Nothing shows then whether it is ours: it is counted apart, and stands in nobody's way."""
    change_ledger(filled.state, "UPDATE extracted SET id = 'other-' || id")
    with tampering(filled.server) as db:
        db.execute("UPDATE attribute SET turn = NULL, labels = NULL")
    summary = verify(filled.server, filled.state, [filled.dump])
    assert "GO" == summary.verdict
    assert summary.report["measured"]["unaccounted"]["untold"] > 0


def test_an_attribute_that_names_nothing_may_be_of_the_memory_whose_answer_was_lost(filled: Filled) -> None:
    lost = "(SELECT min(id) FROM version WHERE text = 'Has a beagle called Biscuit')"
    change_ledger(
        filled.state,
        f"UPDATE fact SET state = 'stored_not_extracted', reason = 'extraction unknown' WHERE id = {lost}",
        f"DELETE FROM extracted WHERE fact = {lost}",
    )
    with tampering(filled.server) as db:
        db.execute("UPDATE attribute SET turn = NULL, labels = NULL")
        db.execute("UPDATE relation SET turn = NULL, labels = NULL")
    summary = verify(filled.server, filled.state, [filled.dump])
    assert "GO" == summary.verdict
    assert summary.report["measured"]["unaccounted"]["untold"] > 0
