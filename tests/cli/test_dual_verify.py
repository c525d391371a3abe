"""`dual-verify` as a command, over a real Mem0 store and what a replay of it left."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.command import command
from tests.support.here import server_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Migrated:
    """A folder with a store, its dump and its ledger, and the variables that lead to the Spectron of it."""

    folder: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def migrated(rehearsal_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migrated]:
    folder = tmp_path_factory.mktemp("migrated")
    (folder / "mem0").symlink_to(rehearsal_store.parent)
    (folder / "spectron-migrate.yaml").write_text("version: 1\nmem0: {oss: {config: mem0/mem0.json}}\n")
    with server_here(folder / "spectron", context="verified", api_key="sk-verify") as server:
        variables = {
            "SPECTRON_ENDPOINT": server.base_url,
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
        }
        for word in ("export", "replay"):
            ended = command(folder, word, environment={**clean_environment(os.environ), **variables})
            assert 0 == ended.returncode, ended
        yield Migrated(folder, variables)


@pytest.fixture(autouse=True)
def in_the_folder(migrated: Migrated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(migrated.folder)
    for name, value in migrated.variables.items():
        monkeypatch.setenv(name, value)


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
        (["--accept", "missing"], "the gate missing cannot be accepted"),
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


def test_the_mem0_that_was_exported_is_asked_without_being_named_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump remembers `--mem0-config`, wherever the next command runs."""
    config = Path("mem0/mem0.json").absolute()
    state = Path(".spectron-migrate").absolute()
    monkeypatch.chdir(tmp_path)
    assert 0 == run(["export", "--mem0-config", str(config), "--json"])
    capsys.readouterr()
    assert 0 == run(["replay", "--state", str(state), "--json"])
    next_ = answer(capsys)["next"]
    assert "dual-verify" in next_
    run([*shlex.split(next_)[shlex.split(next_).index("dual-verify") :], "--sample", "5", "--json"])
    verified = answer(capsys)
    assert "recall" not in [gate["name"] for gate in verified["gates"] if gate["value"] is None]
