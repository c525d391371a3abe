"""Spectron, the key and the scopes."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.doctor import Diagnosis, run_doctor
from spectron_migrate.doctor.spectron import check_extraction
from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.doctor.support import NOW, check_of, diagnose, export
from tests.support.here import server_here
from tests.support.spectron import memory, replay


@pytest.mark.parametrize("wrong", [{"key": "sk-wrong"}, {"context": "unheard-of"}])
def test_a_wrong_key_and_an_unknown_context_get_the_same_hint(
    spectron: RunningServer, tmp_path: Path, wrong: dict[str, str]
) -> None:
    diagnosis = diagnose(spectron, tmp_path, **wrong)
    check = check_of(diagnosis.checks, "spectron", "fail")
    assert "an unknown context is answered like a wrong key" in check.hint
    assert ExitCode.KEY == diagnosis.exit_code


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    async def do_not_wait(_: float) -> None:
        """In place of sleeping between tries."""

    async def diagnosis() -> Diagnosis:
        return await run_doctor(
            mem0=None,
            mapping=None,
            dump=tmp_path / "dump",
            state=tmp_path / "state",
            api=lambda: SpectronApi("http://127.0.0.1:9", "nowhere", api_key="sk", sleep=do_not_wait),
            now=NOW,
            reporter=NullReporter(),
        )

    assert ExitCode.UNREACHABLE == asyncio.run(diagnosis()).exit_code


def test_missing_grants_are_named_with_their_scopes(tmp_path: Path) -> None:
    grants = {"memory:write": ["*"], "memory:read": ["user/anna/*"], "scope:read": ["*"]}
    principals = {"half": {"grants": grants, "key": "sk-half"}}
    with server_here(tmp_path / "spectron", context="grants", principals=principals) as server:
        export(tmp_path, [memory(0, "anna"), memory(1, "bo")])
        diagnosis = diagnose(server, tmp_path, key="sk-half")
    findings = [check.finding for check in diagnosis.checks if check.name == "grants"]
    assert "the key lacks memory:read for 1 of 2 scopes: user/bo" in findings
    assert "the key lacks scope:create for 2 of 2 scopes: user/anna, user/bo" in findings
    assert ExitCode.KEY == diagnosis.exit_code


def test_before_an_export_grants_are_looked_for_anywhere(tmp_path: Path) -> None:
    principals = {"reader": {"grants": {"memory:read": ["*"], "scope:read": ["*"]}, "key": "sk-reader"}}
    with server_here(tmp_path / "spectron", context="grants", principals=principals) as server:
        check = check_of(diagnose(server, tmp_path, key="sk-reader").checks, "grants", "fail")
        unknown = check_of(diagnose(server, tmp_path).checks, "grants", "unknown")
    assert "the key has no grant for memory:write and scope:create" == check.finding
    assert "not known before an export" in unknown.finding


def test_existing_scopes_without_a_ledger_are_reported(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    export(tmp_path, [memory(0, user)])
    replay(spectron, tmp_path / "state", [tmp_path / "dump"])
    assert ExitCode.DONE == diagnose(spectron, tmp_path).exit_code
    shutil.rmtree(tmp_path / "state")
    diagnosis = diagnose(spectron, tmp_path)
    check = check_of(diagnosis.checks, "scopes", "fail")
    assert f"1 scope exists already, and there is no ledger: user/{user}" == check.finding
    assert "--state" in check.hint
    assert ExitCode.NOT_LEGAL == diagnosis.exit_code


@pytest.mark.parametrize(("by", "direction"), [(timedelta(hours=2), "ahead of"), (-timedelta(hours=2), "behind")])
def test_a_wrong_clock_is_reported(spectron: RunningServer, tmp_path: Path, by: timedelta, direction: str) -> None:
    check = check_of(diagnose(spectron, tmp_path, now=datetime.now(UTC) + by).checks, "clock", "warn")
    assert f"s {direction} the server's" in check.finding


def test_missing_extraction_is_reported_from_the_ledger() -> None:
    assert "unknown" == check_extraction({}).status
    assert "warn" == check_extraction({"stored_not_extracted": 9, "written": 1}).status
    assert "llm_extraction_enabled" in check_extraction({"stored_not_extracted": 9}).hint
    assert "ok" == check_extraction({"stored_not_extracted": 1, "written": 9}).status
