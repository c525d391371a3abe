"""A migration from export to complete on the command line: every command, its exit code and its output."""

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

from spectron_migrate.database.location import parse_location
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.migration import reconcile
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.state.following import FOLLOW_FILE
from spectron_migrate.state.routing_reader import RoutingReader
from spectron_migrate.state.store import StateStore, read_object, store_at
from tests.support import output
from tests.support.command import command
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.ledger_file]  # it names its states


@dataclass
class Workplace:
    """Working directories with settings, and a local Spectron that they name; commands take turns in them."""

    folders: tuple[Path, ...]
    server: RunningServer
    place: str = ""
    """The URL of a state in Postgres; empty for one in the only directory."""
    commands: int = 0

    @property
    def folder(self) -> Path:
        """The first one, where the dump is."""
        return self.folders[0]

    @property
    def state(self) -> StateStore:
        return store_at(parse_location(self.place) if self.place else self.folder / ".spectron-migrate")

    def words(self, line: str) -> list[str]:
        words = shlex.split(line)
        return [*words, "--state", self.place] if self.place and "--state" not in words else words

    def next_folder(self) -> Path:
        self.commands += 1
        return self.folders[self.commands % len(self.folders)]

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
        """Start `replay --follow`, which runs beside the other commands."""
        return subprocess.Popen(
            [sys.executable, "-m", "spectron_migrate", *self.words("replay --follow")],
            cwd=self.folders[-1],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, line: str, code: int | tuple[int, ...] = 0) -> str:
        ended = command(self.next_folder(), *self.words(line), environment=self.environment)
        assert ended.returncode in (code if isinstance(code, tuple) else (code,)), ended
        return ended.stdout + ended.stderr

    def run_json(self, line: str) -> dict[str, Any]:
        ended = command(self.next_folder(), *self.words(line), "--json", environment=self.environment)
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer


@pytest.fixture(params=["directory", "postgres"])
def workplace(
    request: pytest.FixtureRequest, rehearsal_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workplace]:
    """A Spectron of its own, and settings that name it: in one directory, or in two that share a state in Postgres."""
    monkeypatch.setattr(reconcile, "QUIET_PAUSE_S", 0.1)  # nobody writes to this store
    is_shared = request.param == "postgres"
    place = request.getfixturevalue("postgres_state") if is_shared else ""
    folders = (tmp_path / "a", tmp_path / "b") if is_shared else (tmp_path / "a",)
    for folder in folders:
        folder.mkdir()
        (folder / "spectron-migrate.yaml").write_text(
            f"version: 1\nmem0: {{oss: {{config: {rehearsal_store}}}}}\ndump: {tmp_path / 'a' / 'dump'}\n"
            "cutover: {settle: 1s, max_lag: 120s, soak: 0s}\n"
        )
    with running_server(tmp_path / "spectron", context="acme") as server:
        yield Workplace(folders, server, place)


def test_a_migration_from_export_to_complete(workplace: Workplace) -> None:
    assert "Export: complete" in workplace.run("export")
    workplace.run("replay --dry-run")
    workplace.run("replay")
    workplace.run("dual-verify --sample 20", (0, 5))

    # Nothing is read from Spectron before a cutover has begun and its gates pass.
    assert "not legal now: no cutover has begun" in workplace.run("cutover shift 5", 10)
    assert "base: not yet\n  no cutover has begun" in workplace.run("cutover check", 4)
    assert "everything is read from Mem0 as before" in workplace.run('cutover start --reason "window of Monday"')
    assert "--follow" in workplace.run("status")
    following = workplace.follow()
    assert following.stderr is not None
    while " round 1:" not in following.stderr.readline():
        assert following.poll() is None
    # The second one finds nothing new and has no line of its own.
    state = workplace.state
    wait_until(lambda: (read_object(state, FOLLOW_FILE) or {}).get("rounds", 0) >= 2)

    assert "not replayed since the cutover began" in workplace.run("cutover check", 4)
    workplace.run("dual-verify --sample 20", (0, 5))
    answer = workplace.run_json("cutover check")
    held = {gate["name"]: gate for gate in answer["gates"] if not gate["passed"]}
    later = {name for name, gate in held.items() if gate["holds"] != "shift"}
    assert {"application", "calls", "soak"} == later
    assert set(held) <= {"verdict", "will_not_expire", *later}
    assert "will_not_expire" in held
    assert not answer["ready"]
    assert "--reason is missing" in workplace.run("cutover accept will_not_expire", 2)
    workplace.run('cutover accept will_not_expire --reason "they may stay"')
    if "verdict" in held:
        assert "inconclusive" == held["verdict"]["outcome"]
        workplace.run('cutover accept verdict --reason "a small store, looked at by hand"')
    assert "All gates pass" in workplace.run("cutover check")

    # One user first, then a share, then back, then everybody.
    user = next(iter(json.loads((workplace.folder / "dump" / "manifest.json").read_text())["users"]))
    routing = RoutingReader(state.folder or state, check_every_s=0)

    def route() -> str:
        routing.fetch()
        return routing.current().route(user_id=user)

    assert "mem0" == route()
    workplace.run(f"cutover shift 100 --user {shlex.quote(user)}")
    assert "spectron" == route()
    shifted = workplace.run("cutover shift 5")
    assert "5 % of users" in shifted
    assert "next: spectron-migrate cutover check" in shifted
    assert "for a day, before: spectron-migrate cutover shift " in shifted
    assert "has its rank as `score`" in shifted
    assert "everything is read from Mem0" in workplace.run('cutover revert --reason "support calls"')
    assert "mem0" == route()
    routing.close()
    refused = workplace.run("cutover shift 100", 4)
    assert "no application reads through the adapter" in refused
    workplace.run('cutover accept application --reason "none is attached in this test"')
    workplace.run('cutover accept calls --reason "none is attached in this test"')
    assert "100 % of users" in workplace.run("cutover shift 100")
    checked = workplace.run("cutover check")
    assert "0s: none is asked for" in checked
    assert "next: spectron-migrate cutover complete" in checked
    shown = workplace.run("status")
    assert re.search(r"following\s+yes", shown)
    assert "support calls" in shown

    assert "the cutover is not complete" in workplace.run("replay --late-writers", 10)
    assert "takes no --limit" in workplace.run("replay --late-writers --limit 3", 2)

    # The one step that cannot be undone asks.
    answer = workplace.run_json("cutover complete")
    assert 12 == answer["exit_code"]
    assert "not_confirmed" == answer["error"]["kind"]
    wrong = workplace.run("cutover complete --migration 0123456789abcdef --yes", 12)
    assert "not 0123456789abcdef: nothing was changed" in wrong
    assert "cutover complete --migration" not in wrong  # a wrong id means a wrong directory: nothing to paste
    confirm = str(answer["error"]["hint"]).removeprefix("spectron-migrate ")
    assert "keep Mem0 until a check after a day" in workplace.run(confirm)
    assert "no way back, because Mem0 is out of date" in workplace.run("cutover revert", 10)
    assert 0 == following.wait(60)
    assert "the cutover is complete" in following.communicate()[0]
    answer = workplace.run_json("status")
    assert "complete" == answer["cutover"]["phase"]
    assert answer["cutover"]["sealed"]
    assert "spectron-migrate cutover check" == answer["next"].split(" --state")[0]

    # Nobody wrote to Mem0 any more.
    assert "holds nothing newer" in workplace.run("cutover check")
    assert workplace.run_json("status")["next"] is None
    exported = workplace.run("export")
    if state.folder:  # an export asks no database what comes next
        assert "next: spectron-migrate cutover check" in exported
    replayed = workplace.run("replay")
    assert "next: spectron-migrate cutover check" in replayed
    assert "for an application that keeps writing: replay --late-writers" in replayed
    answer = output.check(workplace.run_json("replay --late-writers"))
    assert 0 == answer["exit_code"]
    assert 0 == answer["written"]
    assert 0 == answer["late_writes"]["count"]
    assert 0 == output.check(workplace.run_json("status"))["cutover"]["late_writes"]["count"]
    routing.close()
    state.close()
    if workplace.place:  # what lies in the directories is of this host alone
        kept = {path.name for folder in workplace.folders for path in folder.glob(".spectron-migrate/*")}
        assert kept <= {".gitignore", "log.jsonl", "verify.lock"}


def test_after_an_abort_everything_is_read_from_mem0(workplace: Workplace) -> None:
    workplace.run("cutover start")
    assert "Cutover: started" in workplace.run("status")
    answer = workplace.run_json("status")
    assert "started" == answer["cutover"]["phase"]
    assert ["spectron-migrate", *workplace.words("replay")] == shlex.split(answer["next"].removesuffix(" --follow"))
    following = workplace.follow()
    assert following.stderr is not None
    while " round 1:" not in following.stderr.readline():
        assert following.poll() is None
    assert 12 == workplace.run_json("cutover abort")["exit_code"]
    assert "what was written stays in Spectron, and nothing reads it" in workplace.run("cutover abort --yes")
    assert "Cutover: none (aborted" in workplace.run("status")
    assert 0 == following.wait(60)
    cutover = workplace.run_json("status")["cutover"]
    assert "mem0" == cutover["phase"]
    assert ["start", "abort"] == [step["step"] for step in cutover["steps"]]


@pytest.mark.parametrize("workplace", ["directory"], indirect=True)
def test_a_gate_names_its_command_as_it_must_be_typed_here(workplace: Workplace) -> None:
    """With `--state` the commands of its hints need `--state` as well, all of them."""
    workplace.run("cutover start --state elsewhere")
    answer = workplace.run_json("cutover check --state elsewhere")
    named = [hint for gate in answer["gates"] if "spectron-migrate " in (hint := gate["hint"])]
    assert len(named) > 3
    for hint in named:
        assert hint.count("spectron-migrate ") == hint.count("--state elsewhere"), hint
    assert "--state elsewhere" in workplace.run("cutover check --state elsewhere", 4).partition("application:")[2]
