"""`spectron-migrate` alone says where the migration is and what to run; the help groups commands by purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.cli.app import COMMANDS, run
from spectron_migrate.cli.options import GroupedCommands
from spectron_migrate.local.testing import RunningServer
from tests.support.spectron import memory, write_raw


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert 0 == run([])
    return capsys.readouterr().out


def test_an_empty_directory_offers_a_rehearsal_and_a_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    assert "no settings and no dump" in text
    assert "spectron-migrate rehearse" in text
    assert "spectron-migrate init" in text
    assert [] == list(Path().iterdir()), "looking writes nothing"


def test_each_state_of_a_migration_names_the_command_that_comes_next(
    configured: RunningServer, user: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(Path("get_all.json"), [memory(1, user)])
    Path("spectron-migrate.yaml").write_text("version: 1\nmem0: {files: [get_all.json]}\n")
    assert "next: spectron-migrate doctor" in shown(capsys)
    assert 0 == run(["export", "-q"])
    assert "next: spectron-migrate replay --dry-run" in shown(capsys)
    assert 0 == run(["replay", "-q"])
    assert "next: spectron-migrate dual-verify" in shown(capsys)


def test_bad_settings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("spectron-migrate.yaml").write_text("version: 1\nspectrn: {}\n")
    assert 2 == run([])
    assert "spectron-migrate.yaml:2" in capsys.readouterr().err


def test_every_command_is_in_one_group_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(COMMANDS) == sorted(name for names in GroupedCommands.GROUPS.values() for name in names)
    assert 0 == run(["--help"])
    text = capsys.readouterr().out
    titles = [text.index(f"\n{title}:") for title in ("Try", "Migrate", "Cut over", "Undo")]
    assert titles == sorted(titles)
