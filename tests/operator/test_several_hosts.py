"""docs/several-hosts.md is followed command by command, with a real Postgres and a local Spectron."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.operator.console import shown
from tests.support.replaying import expected_texts, texts
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "several-hosts.md").read_text(encoding="utf-8")
DATABASE = "postgresql://migrator@db.example/app"


def test_every_command_of_the_page_does_what_it_says(
    spectron: RunningServer, user: str, postgres_state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    Path("spectron-migrate.yaml").write_text("version: 1\nmem0: {files: [all.json]}\n")
    write_raw(Path("all.json"), [memory(number, user) for number in range(6)])
    commands = [shlex.split(each.command.replace(DATABASE, postgres_state)) for each in shown(PAGE)]
    (export, named), programs = commands[0], [words[1:] for words in commands[1:]]
    assert ("export", f"SPECTRON_MIGRATE_STATE={postgres_state}") == (export, named)
    begin, move, back, backup, adopt = [programs[:2], programs[2:4], programs[4], programs[5], programs[6]]
    assert 0 == run(begin[0])
    assert 8 == run(["replay", "--limit", "2"])  # a migration that was begun in a directory
    for words in move:
        assert 0 == run(words)
    with monkeypatch.context() as shell:
        shell.setenv(*named.split("=", 1))
        assert 0 == run(begin[1])
    assert expected_texts(user, 6) == texts(spectron, user)
    assert 0 == run(backup)
    assert 2 == run(["replay", "--state", "backup"])
    assert 0 == run(adopt)
    assert 0 == run(back)
    assert expected_texts(user, 6) == texts(spectron, user)
    with Ledger.open_for_reading(Path("state")) as ledger:
        assert ledger.migration() is not None
    assert 7 == len(programs)
