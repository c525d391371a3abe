"""Every `--json` object of every command is valid by docs/output.schema.json."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import spectron_migrate
from spectron_migrate.cli.app import COMMANDS, run
from spectron_migrate.errors import ExitCode, MigrateError
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.differences import DifferenceReason
from tests.support import output
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow
PUBLISHED = json.loads(output.FILE.read_text(encoding="utf-8"))
STORE = Path(__file__).parents[1] / "data" / "mem0" / "2.2.1-qdrant"

Run = Callable[..., dict[str, Any]]
"""Runs one command line; returns its object."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A Spectron of its own, which the environment of an empty working directory names."""
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "spectron", context="schema") as made:
        monkeypatch.setenv("SPECTRON_ENDPOINT", made.base_url)
        monkeypatch.setenv("SPECTRON_CONTEXT", made.context)
        monkeypatch.setenv("SPECTRON_API_KEY", made.api_key)
        yield made


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with `--json`; its object must be valid, and its exit code one of those expected (0)."""

    def command(line: str, *codes: int) -> dict[str, Any]:
        capsys.readouterr()
        ended = run([*line.split(), "--json"])
        answer = output.check(json.loads(capsys.readouterr().out))
        assert ended == answer["exit_code"]
        assert ended in (codes or (0,)), answer
        return answer

    return command


def test_a_migration_of_files_and_an_erase(
    server: RunningServer, run_json: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(Path("all.json"), [memory(number, f"u{number % 3}") for number in range(9)])
    run_json("init")
    run_json("doctor")
    run_json("doctor --probe")
    assert 9 == run_json("export --from all.json")["memories"]
    assert run_json("replay --dry-run")["forecast"]["memories"]

    def choose(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(server.base_url, choose) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        assert run_json("replay", 3)["reasons"]
        assert run_json("status")["reasons"]
        monkeypatch.setenv("SPECTRON_ENDPOINT", server.base_url)
    run_json("dual-verify --report verify.json --report verify.md", 4)
    write_raw(Path("all.json"), [memory(number, f"u{number % 3}") for number in range(1, 9)])
    exported = run_json("export --from all.json")
    assert 0 == exported["deleted"]  # files prove no deletion
    migration = run_json("status")["migration"]
    scope = f"erase --migration {migration} --scope user/u2"
    assert run_json(f"{scope} --dry-run")["scopes"]
    assert "error" in run_json(scope, 12)
    assert run_json(f"{scope} --yes user/u2")["forgotten"]
    assert run_json("status")["erased"]


def test_every_step_of_a_cutover(server: RunningServer, run_json: Run) -> None:
    shutil.copytree(STORE / "store", "store")
    store = {"path": "store", "collection_name": "mem0", "on_disk": True}
    config = {"vector_store": {"provider": "qdrant", "config": store}, "history_db_path": str(STORE / "history.db")}
    Path("mem0.json").write_text(json.dumps(config))
    Path("spectron-migrate.yaml").write_text(
        "version: 1\nmem0: {oss: {config: mem0.json}}\ncutover: {settle: 0s, max_lag: 120s}\n"
    )
    run_json("cutover check", 4)
    assert "started" == run_json("cutover start")["phase"]
    assert {} == run_json("status")["states"]
    run_json("export")
    assert run_json("replay")["will_not_expire"]
    assert run_json("replay --follow --max-seconds 1", 0, 8)["rounds"]
    run_json("dual-verify --sample 5", 0, 5)
    assert run_json("cutover check", 0, 4, 5)["gates"]
    run_json("cutover accept will_not_expire --reason known")
    run_json("cutover shift 5", 0, 4, 5)
    run_json("cutover shift 0")
    assert ["alice"] == run_json("cutover shift 0 --user alice")["pinned"]["mem0"]
    assert run_json("status")["cutover"]["steps"]
    run_json("cutover revert")
    assert "error" in run_json("cutover complete --migration 0123456789abcdef --yes", 2, 10)
    assert "error" in run_json("cutover abort", 12)
    assert "mem0" == run_json("cutover abort --yes")["phase"]


@pytest.mark.slow
def test_a_rehearsal(run_json: Run, tmp_path: Path) -> None:
    answer = run_json(f"rehearse --keep {tmp_path / 'kept'}")
    assert {"export", "replay", "replay again", "dual-verify"} == set(answer["steps"])


def test_a_local_spectron(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "local", "--port", "0", "--data", str(tmp_path / "data"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "local Spectron at" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    answer = output.check(json.loads(process.communicate(timeout=60)[0]))
    assert 143 == answer["exit_code"]
    assert str(tmp_path / "data") == answer["data"]


def test_errors_before_a_command_is_known(run_json: Run) -> None:
    for line in ("export --no-such-option", "no-such-command", "status"):
        assert "error" in run_json(line, 2)


def kinds(of: type[MigrateError] = MigrateError) -> Iterator[str]:
    yield of.kind
    for each in of.__subclasses__():
        yield from kinds(each)


def test_it_lists_the_kinds_codes_and_commands_of_the_program() -> None:
    for found in pkgutil.walk_packages(spectron_migrate.__path__, "spectron_migrate."):
        if "__main__" not in found.name:
            importlib.import_module(found.name)
    defined = PUBLISHED["$defs"]
    assert set(kinds()) == set(defined["error"]["properties"]["kind"]["enum"])
    assert set(typing.get_args(DifferenceReason)) == set(
        defined["dual-verify"]["properties"]["explained"]["propertyNames"]["enum"]
    )
    assert set(ExitCode) == set(PUBLISHED["properties"]["exit_code"]["enum"])
    assert {"", *COMMANDS} == set(PUBLISHED["properties"]["command"]["enum"])
    assert set(COMMANDS) <= set(defined)


def test_it_allows_fields_of_later_versions_and_this_version_prints_no_others(run_json: Run) -> None:
    answer = run_json("status", 2)
    more = {**answer, "added": 1}
    jsonschema_rs.validate(PUBLISHED, more)
    with pytest.raises(jsonschema_rs.ValidationError):
        output.check(more)
    for name in PUBLISHED["required"]:
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(PUBLISHED, {key: value for key, value in answer.items() if key != name})
