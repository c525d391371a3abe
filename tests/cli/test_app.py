"""The program as a whole: its global options, and a reader that goes away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from spectron_migrate.cli import status
from spectron_migrate.cli.app import COMMANDS, run
from spectron_migrate.ledger import Ledger
from spectron_migrate.state import journal, routing
from spectron_migrate.state.following import FOLLOW_FILE


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"cutover", "state"}))
def test_help_lists_the_global_options_last(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run([command, "--help"])
    last_section = capsys.readouterr().out.rpartition("\n\n")[2]
    assert last_section.startswith("Global options:")
    own = () if command in ("local", "rehearse") else ("--config", "--state")  # these two read neither
    assert [] == [option for option in (*own, "--json", "--quiet", "--verbose") if option not in last_section]


def test_a_closed_pipe_is_not_a_traceback(tmp_path: Path) -> None:
    piped = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m spectron_migrate --help | head -c 1 > /dev/null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in piped.stderr


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["stauts"]])
def test_only_the_command_that_is_called_is_imported(words: list[str]) -> None:
    code = f"import sys; from spectron_migrate.cli.app import run; run({words}); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(ended.stderr.split()) & {f"spectron_migrate.cli.{name.replace('-', '_')}" for name in COMMANDS}
    assert imported == {f"spectron_migrate.cli.{word}" for word in words[:1] if word in COMMANDS}


def imported_by(code: str, folder: Path) -> set[str]:
    """The modules that a process has imported after running the code in the folder."""
    printed = f"import sys; {code}; print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", printed], cwd=folder, capture_output=True, text=True, check=True)
    assert "there is no ledger" not in ended.stderr
    return set(ended.stderr.split())


def imported_by_status(folder: Path, *options: str) -> set[str]:
    """Beside a ledger of this folder."""
    with Ledger.open_for_writing(folder / ".spectron-migrate") as ledger, ledger.transaction():
        ledger.claim(context="c", source="s", mapping_digest="", tool_version="", now="2025-01-01T00:00:00Z")
    return imported_by(f"from spectron_migrate.cli.app import run; run({['status', *options]})", folder)


def test_status_does_without_what_only_other_commands_need(tmp_path: Path) -> None:
    of_postgres = {"spectron_migrate.ledger.shared", "spectron_migrate.database.tables"}
    of_others = {"httpx", "spectron_migrate.cli.bar", "spectron_migrate.delivery", "spectron_migrate.ledger.upgrade"}
    assert set() == imported_by_status(tmp_path) & (of_postgres | of_others)


def test_status_imports_what_reads_a_cutover_only_where_one_began(tmp_path: Path) -> None:
    modules = {"spectron_migrate.cutover.status", "spectron_migrate.state.journal", "spectron_migrate.ledger.sending"}
    assert set() == imported_by_status(tmp_path) & modules
    assert (journal.FILE, routing.FILE, FOLLOW_FILE) == (status.JOURNAL, *status.TRACES)


def test_json_does_without_what_draws_tables(tmp_path: Path) -> None:
    assert "rich.console" not in imported_by_status(tmp_path, "--json")


def test_a_replay_does_without_what_only_other_ways_to_run_it_need(tmp_path: Path) -> None:
    of_postgres = {"spectron_migrate.ledger.shared", "spectron_migrate.database.tables"}
    of_a_dry_run = {"spectron_migrate.migration.forecast", "spectron_migrate.migration.adopt"}
    imported = imported_by("from spectron_migrate.migration import replay", tmp_path)
    assert set() == imported & (of_postgres | of_a_dry_run)


@pytest.mark.parametrize("name", [status.JOURNAL, *status.TRACES])
def test_each_trace_of_a_cutover_is_read(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text('{"version": 1}\n')

    with mock.patch("spectron_migrate.cutover.status.cutover_status", return_value=None) as read:
        run(["status", "--state", str(tmp_path)])

    assert 1 == read.call_count


def test_a_misspelled_command_is_told_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(["stauts"])
    assert "status" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--shard", "0/4"], ["--shard=0/4"]])
def test_an_option_that_is_gone_names_what_took_its_place(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(["replay", *words, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert "replay" == answer["command"]
    assert answer["error"]["message"].startswith("--shard is gone: several replay processes share the work")
    assert "replay --state postgresql://" in answer["error"]["hint"]
    assert "state copy FROM TO" in answer["error"]["hint"]
