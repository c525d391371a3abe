"""The runbook is followed to its end, command by command, with a real Mem0 store and a local Spectron."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import running_server
from spectron_migrate.migration import reconcile
from spectron_migrate.rehearsal import store
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.state.routing_reader import RoutingReader
from tests.operator.console import shown
from tests.support import output
from tests.support.command import command
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


USERS = ("alice", "acme:Kwame")


def commands() -> list[list[str]]:
    """What the runbook shows at a prompt, in its order."""
    return [shlex.split(each.command)[1:] for each in shown(RUNBOOK)]


def small_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real Mem0 store with two users of the rehearsal's: the README's walk has them all."""
    events, questions = store.load_events(), store.load_questions()
    theirs = {event.key for event in events if event.kind == "add" and event.user in USERS}
    monkeypatch.setattr(store, "load_events", lambda: [event for event in events if event.key in theirs])
    monkeypatch.setattr(store, "load_questions", lambda: [each for each in questions if theirs >= set(each.expect)])
    return store.make_store(folder)


@dataclass
class Operator:
    """Somebody who types what the runbook says."""

    folder: Path
    environment: dict[str, str]
    migration: str = ""
    follower: subprocess.Popen[bytes] | None = None
    said: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)

    def types(self, words: list[str]) -> tuple[int, dict[str, Any]]:
        """One command with `--json`; its object is what the documentation says."""
        ended = command(self.folder, *words, "--json", environment=self.environment)
        assert "Traceback" not in ended.stderr, ended.stderr
        told = json.loads(ended.stdout)
        output.check(told)
        assert ended.returncode == told["exit_code"]
        self.migration = told["migration"] or self.migration
        self.said.append((" ".join(words), ended.returncode, told))
        return ended.returncode, told

    def follows(self) -> None:
        """Leaves `replay --follow` running, as the runbook says."""
        self.follower = subprocess.Popen(
            [sys.executable, "-m", "spectron_migrate", "replay", "--follow", "-q"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def until_ready(self, words: list[str]) -> dict[str, Any]:
        """Asks again until it ends with 0: following and comparing take a while."""
        wait_until(lambda: self.types(words)[0] == 0, every_s=0.5, said=lambda: self.said[-1])
        return self.said[-1][2]


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(reconcile, "QUIET_PAUSE_S", 0.1)  # nobody writes to this store
    folder = tmp_path / "work"
    shutil.copy(small_store(folder / "mem0", monkeypatch), folder / "mem0.yaml")  # JSON is YAML too
    with running_server(tmp_path / "spectron", context="runbook") as server:
        environment = {
            **clean_environment(os.environ),
            "SPECTRON_ENDPOINT": server.base_url,
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
        }
        someone = Operator(folder, environment)
        yield someone
        if someone.follower is not None:
            someone.follower.terminate()
            someone.follower.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_runbook_leads_to_complete(operator: Operator) -> None:
    settings = operator.folder / "spectron-migrate.yaml"
    for words in commands():
        match words:
            case ["rehearse", *_]:
                assert 0 == operator.types([*words, "--keep", "kept"] if "--keep" not in words else words)[0]
            case ["replay", "--follow"]:
                # The only thing that is changed: rounds come faster than they would for a service.
                settings.write_text(settings.read_text() + "cutover: {settle: 1s, max_lag: 120s, soak: 0s}\n")
                operator.follows()
            case [named] if named.startswith("SPECTRON_MIGRATE_STATE="):
                # The machine is lost, and there is no backup.
                operator.environment["SPECTRON_MIGRATE_STATE"] = str(operator.folder / "new")
            case ["cutover", "check"] if "SPECTRON_MIGRATE_STATE" in operator.environment:
                code, told = operator.types(words)
                assert (4, "complete") == (code, told["phase"]), "it has no ledger yet"
                assert "complete" == RoutingReader(operator.folder / "new").for_write().phase
            case ["cutover", "check"]:
                code, told = operator.types(words)
                waiting = {gate["name"] for gate in told["gates"] if gate["passed"] is not True}
                # No application is attached here.
                for name in waiting & {"will_not_expire", "application", "calls"}:
                    assert 0 == operator.types(["cutover", "accept", name, "--reason", "a rehearsal"])[0]
                operator.until_ready(words)
            case ["cutover", "shift", *_]:
                operator.until_ready(words)
            case ["cutover", "complete", "--migration", _, *rest]:
                operator.until_ready(["cutover", "shift", "100"])
                told = operator.until_ready(["cutover", "complete", "--migration", operator.migration, *rest])
                assert "complete" in told["phase"]
            case _:
                code, told = operator.types(words)
                assert 0 == code, (words, told)
    written = [told["written"] for line, _, told in operator.said if line in ("replay", "replay --adopt")]
    assert [0, 0] == written[-2:]
    assert "complete" in operator.types(["status"])[1]["cutover"]["phase"]
