"""A memory that cannot be found in its own scope is misplaced, and one that cannot be searched for is untestable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.options import VerifyOptions
from tests.support.spectron import memory, replay, write_raw
from tests.verify.rewriting_proxy import rewriting_answers
from tests.verify.support import FILLED_TEXTS, Filled, WordSearch, failed_gates, named_findings, tampering, verify

pytestmark = pytest.mark.slow


def test_a_memory_in_another_scope_is_named_misplaced_and_a_leak(filled: Filled) -> None:
    with tampering(filled.server) as db:
        db.execute(
            "UPDATE item SET selector = (SELECT number FROM selector WHERE clauses LIKE '%user/bo/%')"
            " WHERE text = ? AND selector = (SELECT number FROM selector WHERE clauses LIKE '%user/anna/%')",
            (FILLED_TEXTS[5],),
        )
    summary = verify(filled.server, filled.state, [filled.dump])
    assert {("misplaced", "anna-0005")} <= named_findings(summary)
    assert {"anna-0005"} == {mem0_id for _, mem0_id in named_findings(summary)}
    reason = next(one["reason"] for one in summary.report["findings"] if one["kind"] == "misplaced")
    assert "in another scope" in reason
    assert ExitCode.NO_GO == summary.exit_code


def test_a_memory_that_only_a_cache_answers_with_is_untestable(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user, text) for number, text in enumerate(FILLED_TEXTS)])
    replay(spectron, tmp_path / "state", [dump])

    def cached(path: str, asked: Any, answer: Any) -> Any:
        about_cello = path.endswith("/query") and "cello" in asked["query"].casefold()
        return {**answer, "tier": "cache"} if about_cello else answer

    with rewriting_answers(spectron.base_url, cached) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=1), endpoint=endpoint)
    assert {("untestable", f"{user}-0005")} == named_findings(summary)


def test_a_server_that_hides_one_memory_from_its_own_scope_is_no_go(
    spectron: RunningServer, hobby_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", hobby_rows)
    replay(spectron, tmp_path / "state", [dump])

    def hide(path: str, asked: Any, answer: Any) -> Any:
        if path.endswith("/query"):
            answer["hits"] = [hit for hit in answer["hits"] if "Bolivian" not in hit["text"]]
        return answer

    with rewriting_answers(spectron.base_url, hide) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], mem0=WordSearch(hobby_rows), endpoint=endpoint)
    assert {"misplaced", "lost"} <= set(failed_gates(summary))
    assert [hobby_rows[1]["id"]] == summary.report["ids"]["misplaced"]
