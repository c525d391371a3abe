"""Saved results replace Mem0, and a malformed file is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode, InputError, Unreachable
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mem0.search import SearchHit
from spectron_migrate.state.store import store_at
from spectron_migrate.verify.mem0_results import load_results
from spectron_migrate.verify.options import Query, VerifyOptions
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import WordSearch, verify

ASKED = {"user_id": "anna", "agent_id": None, "run_id": None}


@pytest.mark.parametrize("enveloped", [False, True])
def test_each_line_is_an_answer(tmp_path: Path, *, enveloped: bool) -> None:
    rows = [{"id": "m1", "memory": "Likes tea", "score": 0.4}, {"id": "m2", "memory": "Likes cake"}]
    line = {"query": "tea?", "user_id": "anna", "results": {"results": rows} if enveloped else rows}
    (tmp_path / "saved.jsonl").write_text(json.dumps(line) + "\n")
    saved = load_results(tmp_path / "saved.jsonl")
    assert [SearchHit("m1", "Likes tea", 0.4)] == saved.search("tea?", **ASKED, top_k=1)
    assert "saved in saved.jsonl" == saved.describe()
    with pytest.raises(Unreachable):
        saved.search("tea?", **{**ASKED, "user_id": "bo"}, top_k=1)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no answer of Mem0"),
        ('{"command": "dual-verify", "measured": {"recall": null}, "answers": []}', "has no answer of Mem0"),
        ('{"command": "dual-verify", "measured": {}, "answers": 3}', "is not a complete report"),
        ('{"query": "a", "user_id": "u", "results": []}\n{"query"\n', "saved.jsonl:2: not JSON"),
        ('{"question": "a"}\n', "saved.jsonl:1: not an answer to a query"),
        ('{"query": "a", "results": []}\n', "saved.jsonl:1: it has none of user_id"),
        ('{"query": "a", "user_id": "u", "results": 3}\n', "saved.jsonl:1: `results` is not a list"),
        ('{"query": "a", "user_id": "u", "results": [{"id": "m"}]}\n', "saved.jsonl:1: a result without"),
        ('{"query": "a", "user_id": "u", "results": []}\n' * 2, "saved.jsonl:2: a second answer"),
    ],
)
def test_a_malformed_results_file_is_refused_with_its_line(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "saved.jsonl").write_text(text)
    with pytest.raises(InputError) as refused:
        load_results(tmp_path / "saved.jsonl")
    assert part in refused.value.message


def test_the_report_of_an_earlier_run_replaces_mem0(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user, f"Told about topic{number} on day{number}") for number in range(6)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    live = verify(spectron, tmp_path / "state", [dump], VerifyOptions(), mem0=WordSearch(rows))
    (tmp_path / "dual-verify.json").write_bytes(store_at(tmp_path / "state").read("dual-verify.json") or b"")
    saved = load_results(tmp_path / "dual-verify.json")
    again = verify(spectron, tmp_path / "state", [dump], VerifyOptions(), mem0=saved)
    assert "words 1.0, saved in dual-verify.json" == again.report["measured"]["recall"]["mem0"]
    assert (
        live.report["measured"]["recall"]["metrics"]["success"]
        == again.report["measured"]["recall"]["metrics"]["success"]
    )
    assert ExitCode.DONE == live.exit_code
    assert ExitCode.DONE == again.exit_code
    more = VerifyOptions(queries=(Query("something else", user_id=user, expect=(rows[0]["id"],)),))
    other = verify(spectron, tmp_path / "state", [dump], more, mem0=saved)
    assert {"mem0": 1} == other.report["measured"]["recall"]["metrics"]["failed"]
    assert ExitCode.INCONCLUSIVE == other.exit_code
