"""Every object that `--json` prints, of every command and in every kind, is as docs/output.schema.json says."""

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
from spectron_migrate.cli.app import run
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

Say = Callable[..., dict[str, Any]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A Spectron of its own, and a folder that is led to it."""
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "spectron", context="schema") as made:
        monkeypatch.setenv("SPECTRON_ENDPOINT", made.base_url)
        monkeypatch.setenv("SPECTRON_CONTEXT", made.context)
        monkeypatch.setenv("SPECTRON_API_KEY", made.api_key)
        yield made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """One command with `--json`: its object, which must be as published and end with the code that is expected."""

    def command(line: str, *codes: int) -> dict[str, Any]:
        capsys.readouterr()
        ended = run([*line.split(), "--json"])
        told = output.check(json.loads(capsys.readouterr().out))
        assert ended == told["exit_code"]
        assert ended in (codes or (0,)), told
        return told

    return command


def test_of_a_migration_of_files_and_what_is_taken_back(
    server: RunningServer, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(Path("all.json"), [memory(number, f"u{number % 3}") for number in range(9)])
    say("init")
    say("doctor")
    say("doctor --probe")
    assert 9 == say("export --from all.json")["memories"]
    assert say("replay --dry-run")["forecast"]["memories"]

    def choose(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(server.base_url, choose) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        assert say("replay", 3)["reasons"]
        assert say("status")["reasons"]
        monkeypatch.setenv("SPECTRON_ENDPOINT", server.base_url)
    say("dual-verify --report verify.json --report verify.md", 4)
    write_raw(Path("all.json"), [memory(number, f"u{number % 3}") for number in range(1, 9)])
    exported = say("export --from all.json")
    assert 0 == exported["deleted"]  # files prove no deletion
    migration = say("status")["migration"]
    scope = f"erase --migration {migration} --scope user/u2"
    assert say(f"{scope} --dry-run")["scopes"]
    assert "error" in say(scope, 12)
    assert say(f"{scope} --yes user/u2")["forgotten"]
    assert say("status")["erased"]


def test_of_shards(server: RunningServer, say: Say) -> None:
    write_raw(Path("all.json"), [memory(number, f"u{number}") for number in range(9)])
    say("export --from all.json")
    say("replay --shard 0/2")
    assert ["1/2"] == say("status", 11)["shards"]["missing"]
    say("replay --shard 1/2")
    assert 2 == say("status")["shards"]["found"]
    say("dual-verify")


def test_of_every_step_of_a_cutover(server: RunningServer, say: Say) -> None:
    shutil.copytree(STORE / "store", "store")
    store = {"path": "store", "collection_name": "mem0", "on_disk": True}
    config = {"vector_store": {"provider": "qdrant", "config": store}, "history_db_path": str(STORE / "history.db")}
    Path("mem0.json").write_text(json.dumps(config))
    Path("spectron-migrate.yaml").write_text(
        "version: 1\nmem0: {oss: {config: mem0.json}}\ncutover: {settle: 0s, max_lag: 120s}\n"
    )
    say("cutover check", 4)
    assert "started" == say("cutover start")["phase"]
    assert {} == say("status")["states"]
    say("export")
    assert say("replay")["will_not_expire"]
    assert say("replay --follow --max-seconds 4", 0, 8)["rounds"]
    say("dual-verify --sample 5", 0, 5)
    assert say("cutover check", 0, 4, 5)["gates"]
    say("cutover accept will_not_expire --reason known")
    say("cutover shift 5", 0, 4, 5)
    say("cutover shift 0")
    assert ["alice"] == say("cutover shift 0 --user alice")["pinned"]["mem0"]
    assert say("status")["cutover"]["steps"]
    say("cutover revert")
    assert "error" in say("cutover complete --migration 0123456789abcdef --yes", 2, 10)
    assert "error" in say("cutover abort", 12)
    assert "mem0" == say("cutover abort --yes")["phase"]


@pytest.mark.slow
def test_of_a_rehearsal(say: Say, tmp_path: Path) -> None:
    told = say(f"rehearse --keep {tmp_path / 'kept'}")
    assert {"export", "replay", "replay again", "dual-verify"} == set(told["steps"])


def test_of_a_local_spectron(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "local", "--port", "0", "--data", str(tmp_path / "data"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "local Spectron at" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    told = output.check(json.loads(process.communicate(timeout=60)[0]))
    assert (143, str(tmp_path / "data")) == (told["exit_code"], told["data"])


def test_of_what_goes_wrong_before_a_command_is_known(say: Say) -> None:
    for line in ("export --no-such-option", "no-such-command", "status"):
        assert "error" in say(line, 2)


def kinds(of: type[MigrateError] = MigrateError) -> Iterator[str]:
    yield of.kind
    for each in of.__subclasses__():
        yield from kinds(each)


def test_what_it_lists_is_what_the_program_has() -> None:
    from spectron_migrate.cli.app import app

    for found in pkgutil.walk_packages(spectron_migrate.__path__, "spectron_migrate."):
        if "__main__" not in found.name:
            importlib.import_module(found.name)
    defined = PUBLISHED["$defs"]
    assert set(kinds()) == set(defined["error"]["properties"]["kind"]["enum"])
    assert set(typing.get_args(DifferenceReason)) == set(
        defined["dual-verify"]["properties"]["explained"]["propertyNames"]["enum"]
    )
    assert set(ExitCode) == set(PUBLISHED["properties"]["exit_code"]["enum"])
    commands = [str(each.name) for each in app.registered_commands] + [str(each.name) for each in app.registered_groups]
    assert {"", *commands} == set(PUBLISHED["properties"]["command"]["enum"])
    assert set(commands) <= set(defined)


def test_a_later_version_may_add_a_field_and_this_one_has_none_that_is_not_written_down(say: Say) -> None:
    told = say("status", 2)
    more = {**told, "added": 1}
    jsonschema_rs.validate(PUBLISHED, more)
    with pytest.raises(jsonschema_rs.ValidationError):
        output.check(more)
    for name in PUBLISHED["required"]:
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(PUBLISHED, {key: value for key, value in told.items() if key != name})
