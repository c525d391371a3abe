"""Both systems get the same queries; differences are explained, and only loss counts against Spectron."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.verify.options import Query, VerifyOptions
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.rewriting_proxy import rewriting_answers
from tests.verify.support import HOBBIES, PLAIN, RecordingReporter, WordSearch, answer_to, gate_named, tampering, verify

pytestmark = pytest.mark.slow


def test_equal_systems_are_a_go_when_every_memory_was_asked_for(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    texts = ["Keeps bees on the roof", "Collects Bolivian stamps", "Sings alto in a choir", "Bakes rye bread"]
    rows = [memory(number, user, text) for number, text in enumerate(texts)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(), mem0=WordSearch(rows))
    recall = summary.report["measured"]["recall"]
    assert "GO" == summary.verdict
    assert recall["everything"] is True
    assert "words 1.0" == recall["mem0"]
    assert {"mem0": 1.0, "spectron": 1.0} == recall["metrics"]["success"]
    assert {"overlap": 1.0, "rbo": pytest.approx(1.0)} == recall["metrics"]["noise_floor"]
    body = summary.to_json()
    assert 4 == body["queries"]
    assert 0 == body["explained"]["lost"]


def test_recall_is_not_measured_without_mem0(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user, "Keeps bees on the roof")])
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump])
    gate = gate_named(summary, "recall")
    assert gate.passed is None
    assert gate.measured is False
    assert gate.accepted is True
    assert "GO" == summary.verdict
    assert gate.hint.startswith("not measured: ")
    strict = verify(spectron, tmp_path / "state", [dump], accept=["source"])
    assert ExitCode.INCONCLUSIVE == strict.exit_code


def test_a_superseded_fact_is_explained_with_both_texts_and_times_and_does_not_count(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [
        memory(0, user, "Prefers vegetarian food"),
        memory(1, user, "Now eats fish"),
        memory(2, user, "Keeps bees on the roof"),
    ]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    asked = Query("fish", user_id=user)
    options = VerifyOptions(queries=(asked,), top_k=2)

    class OldFirst(WordSearch):
        def search(self, query: str, **named: Any) -> list[SearchHit]:
            return [SearchHit(rows[0]["id"], "Prefers vegetarian food", None), *super().search(query, **named)][:2]

    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=OldFirst(rows))
    (one,) = [one for one in answer_to(summary, "fish")["differences"] if one["id"] == rows[0]["id"]]
    assert "superseded" == one["why"]
    assert {
        "was": "Prefers vegetarian food",
        "is": "Now eats fish",
        "was_at": "2025-01-01T00:00:00.000000Z",
        "is_at": "2025-01-01T01:00:00.000000Z",
    } == one["texts"]
    assert gate_named(summary, "lost").passed is True


def test_a_lost_memory_counts_and_is_named(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="lossy") as server:
        rows = [memory(0, "anna", "Keeps bees on the roof"), memory(1, "anna", "Collects Bolivian stamps")]
        dump = write_raw(tmp_path / "all.json", rows)
        replay(server, tmp_path / "state", [dump])
        with tampering(server) as db:
            db.execute("DELETE FROM item WHERE text LIKE '%bees%'")
        options = VerifyOptions(queries=(Query("who keeps bees?", user_id="anna", expect=("anna-0000",)),))
        summary = verify(server, tmp_path / "state", [dump], options, mem0=WordSearch(rows))
    assert ["lost"] == [one["why"] for one in answer_to(summary, "who keeps bees?")["differences"]]
    assert gate_named(summary, "lost").passed is False
    assert ExitCode.NO_GO == summary.exit_code


def test_hits_of_deleted_and_replaced_memories_are_dropped_before_ranks_are_counted(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    first = [memory(0, user, "Keeps bees on the roof"), memory(1, user, "Collects Bolivian stamps")]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "old.json", first)])
    later = [
        memory(0, user, "Keeps bees on the roof no more", updated_at="2025-03-01T00:00:00+00:00"),
        memory(1, user, "Collects Bolivian stamps"),
    ]
    dump = write_raw(tmp_path / "new.json", later)
    replay(spectron, tmp_path / "state", [dump])
    options = VerifyOptions(queries=(Query("bees roof", user_id=user, expect=(first[0]["id"],)),))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(later))
    answer = answer_to(summary, "bees roof")
    assert "stale" in {hit["dropped"] for hit in answer["spectron"]["hits"]}
    assert first[0]["id"] == answer["spectron"]["ranking"][0]
    assert 1 <= summary.report["measured"]["recall"]["metrics"]["dropped"]["stale"]
    assert 1 == summary.report["measured"]["integrity"]["stale"]


def test_a_query_with_a_run_keeps_only_hits_of_that_run(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [
        memory(0, user, "Keeps bees on the roof", run_id="spring"),
        memory(1, user, "Keeps geese in the yard", run_id="autumn"),
    ]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    options = VerifyOptions(queries=(Query("keeps", user_id=user, run_id="autumn", expect=(rows[1]["id"],)),))
    summary = verify(spectron, tmp_path / "state", [dump], options)
    answer = answer_to(summary, "keeps")
    assert [rows[1]["id"]] == [name for name in answer["spectron"]["ranking"] if not name.startswith("#")]
    assert "run" in {hit["dropped"] for hit in answer["spectron"]["hits"]}


def test_a_query_without_an_answer_is_not_compared(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(0, user, "Keeps bees on the roof"), memory(1, user, "Collects Bolivian stamps")]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    queries = tuple(Query(text, user_id=user, expect=(rows[0]["id"],)) for text in ("bees", "roof"))
    mem0 = WordSearch(rows, broken=frozenset({"roof"}))
    summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(queries=queries), mem0=mem0)
    metrics = summary.report["measured"]["recall"]["metrics"]
    assert {"mem0": 1} == metrics["failed"]
    assert 1 == metrics["compared"]
    assert gate_named(summary, "answered").passed is None
    assert 1 == gate_named(summary, "answered").value
    assert ExitCode.INCONCLUSIVE == summary.exit_code


def test_a_memory_added_to_mem0_after_the_export_prevents_go(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(0, user, "Keeps bees on the roof"), memory(1, user, "Collects Bolivian stamps")]
    dump = write_raw(tmp_path / "all.json", rows[:1])
    replay(spectron, tmp_path / "state", [dump])
    options = VerifyOptions(queries=(Query("stamps", user_id=user, expect=(rows[0]["id"],)),))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(rows))
    assert {"pending": 1} == summary.report["measured"]["recall"]["explained"]
    assert None is gate_named(summary, "moved on").passed
    assert "GO" != summary.verdict


@pytest.fixture(scope="module")
def crowd(spectron: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """200 users with four memories each."""
    folder = tmp_path_factory.mktemp("crowd")
    nouns = ["bees", "stamps", "choirs", "bread", "rivers", "lamps", "violins", "maps"]
    rows = [
        memory(number, f"crowd{user:03d}", f"Told about {nouns[(user + number) % 8]} {noun} and number{user}{number}")
        for user in range(200)
        for number, noun in enumerate(("in spring", "at night", "for work", "with friends"))
    ]
    (folder / "mapping.yaml").write_text(PLAIN)
    dump = write_raw(folder / "all.json", rows)
    summary = replay(spectron, folder / "state", [dump], mapping=folder / "mapping.yaml")
    assert ExitCode.DONE == summary.exit_code
    return folder, rows


def shuffled(path: str, asked: Any, answer: Any) -> Any:
    if path.endswith("/query") and asked["mode"] == "hybrid":
        random.Random(asked["query"]).shuffle(answer["hits"])
    return answer


@pytest.mark.ledger_file  # the crowd was replayed once, for all tests
def test_a_shuffled_ranking_is_a_no_go_with_200_users(
    spectron: RunningServer, crowd: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, rows = crowd
    asked = tuple(Query(row["memory"], user_id=row["user_id"], expect=(row["id"],)) for row in rows[::4])
    options = VerifyOptions(queries=asked, top_k=1, placement_sample=10)
    named: dict[str, Any] = {"mem0": WordSearch(rows), "mapping": folder / "mapping.yaml"}
    good = verify(spectron, folder / "state", [folder / "all.json"], options, **named)
    assert 200 == good.report["measured"]["recall"]["metrics"]["users"]
    assert "users" == good.report["measured"]["recall"]["metrics"]["difference"]["units"]
    assert gate_named(good, "recall").passed is True
    assert "GO" == good.verdict
    with rewriting_answers(spectron.base_url, shuffled) as endpoint:
        bad = verify(spectron, folder / "state", [folder / "all.json"], options, endpoint=endpoint, **named)
    assert False is gate_named(bad, "recall").passed
    assert ExitCode.NO_GO == bad.exit_code
    assert True is gate_named(bad, "lost").passed


@pytest.mark.ledger_file  # the crowd was replayed once, for all tests
def test_four_users_are_too_few_and_the_hint_says_how_many_queries_are_needed(
    spectron: RunningServer, crowd: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, rows = crowd
    from spectron_migrate.records import Filters

    options = VerifyOptions(
        sample=8, top_k=1, placement_sample=10, filters=Filters(users=frozenset(f"crowd{n:03d}" for n in range(4)))
    )
    summary = verify(
        spectron,
        folder / "state",
        [folder / "all.json"],
        options,
        mem0=WordSearch(rows),
        mapping=folder / "mapping.yaml",
    )
    difference = summary.report["measured"]["recall"]["metrics"]["difference"]
    assert "queries" == difference["units"]
    assert 8 == difference["n"]
    assert difference["needed"] > 8
    assert f"there are 8 queries, about {difference['needed']} are needed" in gate_named(summary, "recall").hint
    assert ExitCode.INCONCLUSIVE == summary.exit_code
    assert 16 == summary.report["measured"]["integrity"]["expected"]


def test_a_mem0_that_finds_nothing_is_inconclusive(
    spectron: RunningServer, hobby_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    class Empty(WordSearch):
        def search(self, query: str, **named: Any) -> list[SearchHit]:
            return []

    dump = write_raw(tmp_path / "all.json", hobby_rows)
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump], mem0=Empty(hobby_rows))
    assert "INCONCLUSIVE" == summary.verdict
    assert gate_named(summary, "recall").passed is None


def test_unknown_expected_ids_are_warned_of_and_not_compared(
    spectron: RunningServer, user: str, hobby_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", hobby_rows)
    replay(spectron, tmp_path / "state", [dump])
    reporter = RecordingReporter()
    options = VerifyOptions(queries=(Query("bees", user_id=user, expect=("nobody",)),))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(hobby_rows), reporter=reporter)
    assert "INCONCLUSIVE" == summary.verdict
    assert 0 == summary.report["measured"]["recall"]["metrics"]["compared"]
    assert any("nor ledger, such as nobody" in line for line in reporter.warnings)


def test_a_query_that_no_lens_can_serve_is_reported_with_its_rule(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(0, user, HOBBIES[0]), {**memory(1, f"{user}-bot", HOBBIES[1]), "user_id": None, "agent_id": "bot"}]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    asked = (Query("bees", user_id=user, expect=(rows[0]["id"],)), Query("stamps", agent_id="bot"))
    reporter = RecordingReporter()
    report = tmp_path / "verify.md"
    options = VerifyOptions(queries=asked, reports=(report,))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(rows), reporter=reporter)
    assert 1 == gate_named(summary, "asked").value
    assert gate_named(summary, "asked").passed is None
    assert "INCONCLUSIVE" == summary.verdict
    assert any(
        line.startswith("1 query was not asked: a filter by agent_id cannot be served") for line in reporter.warnings
    )
    assert "not asked: 1, a filter by agent" in report.read_text()
