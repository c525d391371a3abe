"""What is not in order gets no GO however it hides, and what is in order is not refused one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump.opened import Dump
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.records import NullReporter
from spectron_migrate.verify.options import Query, VerifyOptions
from tests.support.spectron import memory, replay, write_raw
from tests.verify.between import between
from tests.verify.support import failed, verify
from tests.verify.test_recall import WordSearch, by_name

TEXTS = ("Keeps bees on the roof", "Collects Bolivian stamps", "Sings alto in a choir", "Bakes rye bread")


class Said(NullReporter):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def rows(user: str) -> list[dict[str, Any]]:
    return [memory(number, user, text) for number, text in enumerate(TEXTS)]


def test_half_an_export_is_no_go_ahead_though_all_of_it_arrived(
    spectron: RunningServer, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "half.json", rows[:2])
    replay(spectron, tmp_path / "state", [dump])
    monkeypatch.setattr(Dump, "complete", False)
    monkeypatch.setattr(Dump, "raw", False)
    summary = verify(spectron, tmp_path / "state", [dump])
    assert ("INCONCLUSIVE", None) == (summary.verdict, by_name(summary, "source").passed)


def test_raw_files_say_that_they_prove_nothing_about_the_rest(
    spectron: RunningServer, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    gate = by_name(verify(spectron, tmp_path / "state", [dump]), "source")
    assert (False, "not measured: raw files do not prove that they hold all of Mem0; an export does") == (
        gate.measured,
        gate.hint,
    )


def test_the_wrong_mem0_does_not_make_spectron_look_good(
    spectron: RunningServer, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    class Empty(WordSearch):
        def search(self, query: str, **named: Any) -> list[SearchHit]:
            return []

    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump], mem0=Empty(rows))
    assert ("INCONCLUSIVE", None) == (summary.verdict, by_name(summary, "recall").passed)


def test_labels_that_nobody_knows_are_said_and_no_tie(
    spectron: RunningServer, user: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    said = Said()
    options = VerifyOptions(queries=(Query("bees", user_id=user, expect=("nobody",)),), require_recall=True)
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(rows), reporter=said)
    assert ("INCONCLUSIVE", 0) == (summary.verdict, summary.report["measured"]["recall"]["metrics"]["compared"])
    assert any("nor ledger, such as nobody" in line for line in said.warnings)


def test_a_question_that_only_an_agent_asks_is_named_with_the_rule_that_refuses_it(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(0, user, TEXTS[0]), {**memory(1, f"{user}-bot", TEXTS[1]), "user_id": None, "agent_id": "bot"}]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    asked = (Query("bees", user_id=user, expect=(rows[0]["id"],)), Query("stamps", agent_id="bot"))
    said = Said()
    report = tmp_path / "verify.md"
    options = VerifyOptions(queries=asked, reports=(report,))
    summary = verify(spectron, tmp_path / "state", [dump], options, mem0=WordSearch(rows), reporter=said)
    assert (1, None) == (by_name(summary, "asked").value, by_name(summary, "asked").passed)
    assert "INCONCLUSIVE" == summary.verdict
    assert any(
        line.startswith("1 query was not asked: a filter by agent_id cannot be served") for line in said.warnings
    )
    assert "not asked: 1, a filter by agent" in report.read_text()


def test_a_server_that_hides_one_memory_from_its_own_scope_is_no_go(
    spectron: RunningServer, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])

    def hide(path: str, asked: Any, answer: Any) -> Any:
        if path.endswith("/query"):
            answer["hits"] = [hit for hit in answer["hits"] if "Bolivian" not in hit["text"]]
        return answer

    with between(spectron.base_url, hide) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], mem0=WordSearch(rows), endpoint=endpoint)
    assert {"misplaced", "lost"} <= set(failed(summary))
    assert [rows[1]["id"]] == summary.report["ids"]["misplaced"]


def test_a_server_that_answers_everybody_with_everything_is_no_go(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{name}", text) for name in ("a", "b") for number, text in enumerate(TEXTS[:2])]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    everything: dict[str, Any] = {}

    def mix(path: str, asked: Any, answer: Any) -> Any:
        if path.endswith("/query"):
            everything.update({json.dumps(hit["id"]): hit for hit in answer["hits"]})
            answer["hits"] = list(everything.values())[: asked["k"]]
        return answer

    with between(spectron.base_url, mix) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=endpoint)
    assert "isolation" in failed(summary)


def test_a_large_but_good_migration_with_odd_memories_is_a_go(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    odd = [
        "Likes tea",
        "likes  TEA",
        "🦔 hedgehogs " + "🦔",
        "x" * 5000,
        "12345",
        "naïve café",
        "1. one\n2. two",
        "Likes tea",
    ]
    rows = [memory(number, user, text) for number, text in enumerate(odd * 3)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=50), mem0=WordSearch(rows))
    assert ([], "GO") == (failed(summary), summary.verdict)
