"""`dual-verify` as a command, over a rehearsal that was kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.rehearsal.ground import CONTEXT, clean_environment

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal's folder."""
    folder = tmp_path_factory.mktemp("kept") / "rehearsal"
    subprocess.run(
        [sys.executable, "-m", "spectron_migrate", "rehearse", "--keep", str(folder), "-q"],
        env=clean_environment(os.environ),
        check=True,
        timeout=280,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def server(kept: Path) -> Iterator[RunningServer]:
    """The Spectron of that rehearsal, with a key of this test's added to it."""
    with running_server(kept / "spectron", context=CONTEXT, api_key="sk-verify") as running:
        yield running


@pytest.fixture(autouse=True)
def in_the_folder(kept: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept)
    monkeypatch.setenv("SPECTRON_ENDPOINT", server.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", server.context)
    monkeypatch.setenv("SPECTRON_API_KEY", server.api_key)


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    assert 1 == out.count("\n")
    found: dict[str, Any] = json.loads(out)
    return found


def test_everything_is_there_and_a_saved_run_of_mem0_gives_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "verify.json"
    assert run(["dual-verify", "--queries", "mem0/queries.jsonl", "--report", str(report), "--json"]) in (0, 5)
    first = answer(capsys)
    assert 164 == first["integrity"]["present"]
    assert 0 == first["leaks_count"]
    assert 0o600 == report.stat().st_mode & 0o777
    assert run(["dual-verify", "--queries", "mem0/queries.jsonl", "--mem0-results", str(report), "--json"]) in (0, 5)
    saved = answer(capsys)
    assert saved["mem0"].startswith("mem0ai ")
    assert saved["mem0"].endswith("saved in verify.json")
    for measure in ("success", "mrr", "overlap"):
        assert first["metrics"][measure] == saved["metrics"][measure]


def test_reports_for_ci_hold_counts_and_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(tmp_path / f"verify.{suffix}") for suffix in ("md", "xml", "html", "json")]
    arguments = [word for name in names for word in ("--report", name)]
    assert run(["dual-verify", "--sample", "20", *arguments]) in (0, 5)
    shown = capsys.readouterr().out
    assert "Verdict: " in shown
    answers = [one for one in json.loads(Path(names[3]).read_text())["answers"] if "mem0" in one]
    texts = {hit["text"] for one in answers for hit in one["mem0"]["hits"]} | {one["query"] for one in answers}
    assert len(texts) > 20
    for name in names[:2]:
        written = Path(name).read_text()
        assert [] == [text for text in texts if text in written]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top-k", "51"], "--top-k"),
        (["--sample", "0"], "--sample"),
        (["--queries", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--report", "verify.pdf"], "verify.pdf"),
        (["--mem0-results", "nowhere.json"], "nowhere.json"),
        (["--mem0-results", "spectron-migrate.yaml"], "spectron-migrate.yaml:1"),
        (["--mem0-config", "nowhere.yaml"], "nowhere.yaml"),
        (["--state", "elsewhere"], "elsewhere"),
        (["--dump", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_named(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(["dual-verify", *options])
    assert said in capsys.readouterr().err


def test_a_query_without_an_owner_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "tea?", "user_id": "alice"}\n{"query": "whose tea?"}\n')
    assert 2 == run(["dual-verify", "--queries", str(queries)])
    assert "queries.jsonl:2" in capsys.readouterr().err


def test_the_ledger_of_another_context_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPECTRON_CONTEXT", "another")
    assert 2 == run(["dual-verify"])
    assert "another" in capsys.readouterr().err
