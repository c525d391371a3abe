"""All checks together, and the command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.doctor import run_doctor
from spectron_migrate.errors import ExitCode, InputError, KeyRefused
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.reporter import NullReporter
from tests.doctor.support import NOW, check_of, diagnose, export
from tests.support.spectron import memory, write_raw


def test_a_sound_migration_has_no_warnings(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    export(tmp_path, [memory(number, user) for number in range(3)])
    diagnosis = diagnose(spectron, tmp_path)
    assert [] == [check for check in diagnosis.checks if check.status in ("warn", "fail")]
    assert ExitCode.DONE == diagnosis.exit_code
    assert "may read, write and create 1 scope" in check_of(diagnosis.checks, "grants", "ok").finding
    assert "searches by user_id can be answered" == check_of(diagnosis.checks, "mapping: filters", "ok").finding


def test_a_mapping_that_could_merge_two_ids_is_reported(spectron: RunningServer, tmp_path: Path) -> None:
    bad = "version: 1\nrules:\n  - {when: {user_id: '{a}:{b}'}, scope: {user: '{a}'}}\n"
    diagnosis = diagnose(spectron, tmp_path, mapping=bad)
    assert "one scope for two different user_id" in check_of(diagnosis.checks, "mapping", "fail").finding
    assert ExitCode.INPUT == diagnosis.exit_code


def test_a_truncated_dump_is_reported(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = export(tmp_path, [memory(0, user)])
    (dump / "memories.jsonl").write_text("{}\n")
    assert "is truncated" in check_of(diagnose(spectron, tmp_path).checks, "dump", "fail").finding


def test_missing_settings_are_failed_checks_among_the_others(tmp_path: Path) -> None:
    def no_mem0() -> Any:
        raise KeyRefused("no Mem0 key is set")

    def no_api() -> Any:
        raise InputError.of_all(["no endpoint", "no context"])

    diagnosis = asyncio.run(
        run_doctor(
            mem0=no_mem0,
            mapping=None,
            dump=tmp_path / "dump",
            state=tmp_path / "state",
            api=no_api,
            now=NOW,
            reporter=NullReporter(),
        )
    )
    assert "no Mem0 key is set" == check_of(diagnosis.checks, "mem0", "fail").finding
    assert "2 problems: no endpoint; no context" == check_of(diagnosis.checks, "spectron", "fail").finding
    assert ExitCode.KEY == diagnosis.exit_code  # the first that fails


def test_the_command_tells_people_and_scripts_the_same(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", "sk-not-this-one")
    write_raw(Path("get_all.json"), [memory(0, user)])
    assert ExitCode.DONE == run(["init", "-q"])
    capsys.readouterr()
    assert ExitCode.KEY == run(["doctor"])
    people = capsys.readouterr().out
    assert "FAIL spectron: " in people
    assert "sk-not-this-one" not in people
    assert ExitCode.KEY == run(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert 1 == answer["fail"]
    assert ExitCode.KEY == answer["exit_code"]
    assert answer["next"] is None
    assert ["spectron"] == [check["name"] for check in answer["checks"] if check["status"] == "fail"]
    assert not (tmp_path / ".spectron-migrate").exists()
    assert not (tmp_path / "dump").exists()


def test_control_characters_in_ids_are_not_sent_to_the_terminal(
    spectron: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    Path("spectron-migrate.yaml").write_text("version: 1\nmapping: mapping.yaml\n")
    Path("mapping.yaml").write_text("version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\n")
    row = {"id": "1", "memory": "Likes tea", "created_at": "2025-01-01T00:00:00Z"}
    export(tmp_path, [{**row, "agent_id": "\x1b[31m[bold]x[/bold]\x07"}])
    assert ExitCode.INPUT == run(["doctor"])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert not {"\x1b", "\x07"} & set(out)
