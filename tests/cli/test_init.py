"""`init`: the next commands use the files that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.errors import ExitCode
from tests.support.spectron import memory, write_raw


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_export_and_replay_use_the_files_that_init_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(Path("get_all.json"), [memory(number, "anna") for number in range(3)])
    assert ExitCode.DONE == run(["init", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert "files" == answer["mem0"]
    assert 3 == answer["memories"]
    assert "spectron-migrate doctor" == answer["next"]
    assert ["spectron-migrate.yaml", "mapping.yaml"] == answer["files"]
    assert ExitCode.DONE == run(["export", "--json"])
    assert ExitCode.DONE == run(["replay", "--dry-run", "--json"])
    planned = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 3 == planned["planned"]


def test_without_a_mem0_it_says_what_to_do_and_names_no_command_that_would_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPECTRON_ENDPOINT", raising=False)
    assert ExitCode.DONE == run(["init"])
    screen = " ".join(capsys.readouterr().out.split())
    assert "will be read from SPECTRON_ENDPOINT" in screen
    assert "not set yet SPECTRON_ENDPOINT" in screen
    assert "Name your Mem0 in the settings, or delete both files and run" in screen
    assert "next:" not in screen


def test_a_second_init_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitCode.DONE == run(["init", "-q"])
    before = Path("mapping.yaml").read_bytes()
    assert ExitCode.INPUT == run(["init"])
    assert "exists already" in capsys.readouterr().err
    assert before == Path("mapping.yaml").read_bytes()


def test_the_summary_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(Path("get_all.json"), [memory(1, "anna\x1b[31m")])
    assert ExitCode.DONE == run(["init", "--config", "other.yaml"])
    out = capsys.readouterr().out
    assert "there are files get_all*.json" in out
    assert "other.yaml" in out
    assert "\x1b[31m" not in out
