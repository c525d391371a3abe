"""A transcript from export to complete, as a runbook tells it: every command, its exit code, and what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.rehearsal.store import make_store
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.state.routing import RoutingReader
from tests.support.command import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass
class Desk:
    """Where somebody sits and types."""

    folder: Path
    server: RunningServer

    @property
    def environment(self) -> dict[str, str]:
        return {
            **clean_environment(os.environ),
            "SPECTRON_ENDPOINT": self.server.base_url,
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": self.server.api_key,
            "COLUMNS": "120",
        }

    def follow(self) -> subprocess.Popen[str]:
        """The one command that runs beside the others."""
        return subprocess.Popen(
            [sys.executable, "-m", "spectron_migrate", "replay", "--follow"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def types(self, line: str, code: int | tuple[int, ...] = 0) -> str:
        ended = command(self.folder, *shlex.split(line), environment=self.environment)
        assert ended.returncode in (code if isinstance(code, tuple) else (code,)), ended
        return ended.stdout + ended.stderr

    def json(self, line: str) -> dict[str, Any]:
        ended = command(self.folder, *shlex.split(line), "--json", environment=self.environment)
        told: dict[str, Any] = json.loads(ended.stdout)
        return told


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a real small Mem0 store; only read, as nothing of ours writes to Mem0."""
    return make_store(tmp_path_factory.mktemp("mem0"))


@pytest.fixture
def desk(store: Path, tmp_path: Path) -> Iterator[Desk]:
    """A Spectron of its own, and the settings file."""
    (tmp_path / "spectron-migrate.yaml").write_text(
        f"version: 1\nmem0: {{oss: {{config: {store}}}}}\ncutover: {{settle: 1s, max_lag: 120s}}\n"
    )
    with running_server(tmp_path / "spectron", context="acme") as server:
        yield Desk(tmp_path, server)


def test_from_export_to_complete(desk: Desk) -> None:
    assert "Export: complete" in desk.types("export")
    desk.types("replay --dry-run")
    desk.types("replay")
    desk.types("dual-verify --sample 20", (0, 5))

    # Nothing is read from Spectron before a cutover has begun and its gates pass.
    assert "not legal now: no cutover has begun" in desk.types("cutover shift 5", 10)
    assert "base: no cutover has begun" in desk.types("cutover check", 4)
    assert "everything is read from Mem0 as before" in desk.types('cutover start --reason "window of Monday"')
    assert "replay --follow" in desk.types("status")
    following = desk.follow()
    assert following.stderr is not None
    while " round 2:" not in following.stderr.readline():
        assert following.poll() is None

    assert "not replayed since the cutover began" in desk.types("cutover check", 4)
    desk.types("dual-verify --sample 20", (0, 5))
    told = desk.json("cutover check")
    held = {gate["name"]: gate for gate in told["gates"] if not gate["passed"]}
    assert set(held) <= {"verdict", "will_not_expire"}
    assert ("will_not_expire", False) == (held["will_not_expire"]["name"], told["ready"])
    assert "--reason is missing" in desk.types("cutover accept will_not_expire", 2)
    desk.types('cutover accept will_not_expire --reason "they may stay"')
    if "verdict" in held:
        assert "inconclusive" == held["verdict"]["outcome"]
        desk.types('cutover accept verdict --reason "a small store, looked at by hand"')
    assert "All gates pass" in desk.types("cutover check")

    # One user first, then a share, then back, then everybody.
    user = next(iter(json.loads((desk.folder / "dump" / "manifest.json").read_text())["users"]))
    routing = RoutingReader(desk.folder / ".spectron-migrate", check_every_s=0)
    assert "mem0" == routing.current().route(user_id=user)
    desk.types(f"cutover shift 100 --user {shlex.quote(user)}")
    assert "spectron" == routing.current().route(user_id=user)
    assert "5 % of users" in desk.types("cutover shift 5")
    assert "everything is read from Mem0" in desk.types('cutover revert --reason "support calls"')
    assert "mem0" == routing.current().route(user_id=user)
    assert "100 % of users" in desk.types("cutover shift 100")
    shown = desk.types("status")
    assert re.search(r"following\s+yes", shown)
    assert "support calls" in shown

    # The one step without a way back asks.
    told = desk.json("cutover complete")
    assert (12, "not_confirmed") == (told["exit_code"], told["error"]["kind"])
    confirm = str(told["error"]["hint"]).removeprefix("spectron-migrate ")
    assert "Spectron is now the only store; Mem0 is no longer needed" in desk.types(confirm)
    assert "not legal any more" in desk.types("cutover revert", 10)
    assert 0 == following.wait(60)
    assert "the cutover is complete" in following.communicate()[0]
    told = desk.json("status")
    assert ("complete", True, None) == (told["cutover"]["phase"], told["cutover"]["sealed"], told["next"])


def test_a_cutover_that_is_given_up_leaves_everything_on_mem0(desk: Desk) -> None:
    desk.types("cutover start")
    assert "Cutover: started" in desk.types("status")
    assert ("started", "spectron-migrate replay --follow") == (
        (told := desk.json("status"))["cutover"]["phase"],
        told["next"],
    )
    following = desk.follow()
    assert following.stderr is not None
    while " round 1:" not in following.stderr.readline():
        assert following.poll() is None
    assert 12 == desk.json("cutover abort")["exit_code"]
    desk.types("cutover abort --yes")
    assert 0 == following.wait(60)
    told = desk.json("status")["cutover"]
    assert ("mem0", ["start", "abort"]) == (told["phase"], [step["step"] for step in told["steps"]])
