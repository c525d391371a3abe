"""Every kind of planted leak is found; equal sentences of two users are no leak."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.isolation import ScopeReader, choose_pairs
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.rewriting_proxy import rewriting_answers
from tests.verify.support import failed_gates, named_findings, tampering, verify

pytestmark = pytest.mark.slow

SENTENCES = ("Prefers window seats on long flights", "Is training for the Lisbon marathon", "Keeps bees on the roof")


def fill(server: RunningServer, folder: Path, texts: dict[str, list[str]]) -> Path:
    rows = [memory(number, user, text) for user, sentences in texts.items() for number, text in enumerate(sentences)]
    dump = write_raw(folder / "all.json", rows)
    assert ExitCode.DONE == replay(server, folder / "state", [dump]).exit_code
    return dump


def test_equal_sentences_of_two_users_are_no_leak(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = fill(spectron, tmp_path, {user: list(SENTENCES), f"{user}2": list(SENTENCES), f"{user}-x": [SENTENCES[0]]})
    summary = verify(spectron, tmp_path / "state", [dump])
    isolation = summary.report["measured"]["isolation"]
    assert 3 == isolation["pairs"]
    assert 0 == isolation["leaks"]
    assert 0 == isolation["suspects"]
    assert "GO" == summary.verdict
    assert set() == named_findings(summary)


def test_a_cache_shared_across_scopes_is_a_leak(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = fill(spectron, tmp_path, {user: list(SENTENCES), f"{user}2": ["Collects stamps", "Sings in a choir"]})
    kept: dict[str, Any] = {}

    def by_question_alone(path: str, asked: Any, answer: Any) -> Any:
        if not path.endswith("/query"):
            return answer
        key = f"{asked['query']} {asked['mode']}"
        if key in kept:
            return {**kept[key], "tier": "cache"}
        kept[key] = answer
        return answer

    with rewriting_answers(spectron.base_url, by_question_alone) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=endpoint)
    assert "isolation" in failed_gates(summary)
    assert ExitCode.NO_GO == summary.exit_code
    body = summary.to_json()
    assert body["leaks_count"] == len(body["leaks"]) > 0
    assert {"id", "reason", "where"} == set(body["leaks"][0])


def test_a_passage_in_another_users_scope_is_a_leak_that_names_the_memory(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="leaky") as server:
        dump = fill(server, tmp_path, {"anna": list(SENTENCES), "bo": ["Collects stamps", "Sings in a choir"]})
        with tampering(server) as db:
            db.execute(
                "INSERT INTO selector(clauses, unscoped) SELECT json_array(json_extract(a.clauses, '$[0]'),"
                " json_extract(b.clauses, '$[0]')), 0 FROM selector AS a, selector AS b"
                " WHERE a.clauses LIKE '%anna%' AND b.clauses LIKE '%bo/%'"
            )
            db.execute("UPDATE item SET selector = (SELECT max(number) FROM selector) WHERE text = ?", (SENTENCES[2],))
        summary = verify(server, tmp_path / "state", [dump])
    assert {("leak", "anna-0002")} == named_findings(summary)
    assert ["isolation"] == failed_gates(summary)


def test_a_copy_under_another_id_is_a_leak_if_words_that_only_its_owner_has_find_it(tmp_path: Path) -> None:
    async def copy(server: RunningServer) -> None:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            session = await api.create_session((("user/bo",),))
            body = f'{{"infer":"none","session_id":"{session.id}","text":"{SENTENCES[2]}"}}'
            assert 200 == (await api.post_fact(body.encode(), key="wrong-place")).status

    with server_here(tmp_path / "spectron", context="leaky") as server:
        dump = fill(server, tmp_path, {"anna": list(SENTENCES), "bo": ["Collects stamps", "Sings in a choir"]})
        asyncio.run(copy(server))
        summary = verify(server, tmp_path / "state", [dump])
    assert {("leak", "anna-0002")} == named_findings(summary)


def test_isolation_is_not_measured_with_one_scope(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = fill(spectron, tmp_path, {user: list(SENTENCES)})
    summary = verify(spectron, tmp_path / "state", [dump])
    gate = next(gate for gate in summary.gates if gate.name == "isolation")
    assert gate.passed is None
    assert gate.measured is False
    assert gate.decides is False
    assert "GO" == summary.verdict


def test_pairs_are_separate_and_the_same_seed_gives_the_same_pairs() -> None:
    known = [
        ScopeReader(number, ((path,),), ((path,), (f"{path}/*",)))
        for number, path in enumerate(["user/a", "user/a/agent/x", "user/a2", "user/b", "user/c"])
    ]
    chosen = choose_pairs(known, 6, Random(7))
    assert 6 == len(chosen)
    assert chosen == choose_pairs(known, 6, Random(7))
    assert all({left.scope, right.scope} != {0, 1} for left, right in chosen)
    neighbours = {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert all((left.scope, right.scope) in neighbours for left, right in chosen[:3])
