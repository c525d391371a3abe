"""Every exit code is produced by some command, and its `--json` object is as documented."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.operator.glossary_links import without_links
from tests.support import output
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, register_scope, write_raw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = without_links((ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8"))


@dataclass
class Sandbox:
    """The working directory with a dump of two memories, and the Spectron that the environment names."""

    server: RunningServer
    user: str
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> int:
        """Run one command with `--json` and check its object; returns its exit code."""
        self.capsys.readouterr()
        code = run([*words, "--json"])
        answer = json.loads(self.capsys.readouterr().out)
        output.check(answer)
        assert code == answer["exit_code"]
        assert (code in (0, 3, 4, 5, 8, 11)) == ("error" not in answer)
        return code

    def rows(self, n: int) -> list[dict[str, Any]]:
        return [memory(number, self.user) for number in range(n)]


@pytest.fixture
def sandbox(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Sandbox:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    made = Sandbox(spectron, user, monkeypatch, capsys)
    write_raw(tmp_path / "get_all.json", made.rows(2))
    return made


def done(sandbox: Sandbox) -> int:
    return sandbox.run("replay", "--dump", "get_all.json")


def bug(sandbox: Sandbox) -> int:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    sandbox.patch.setattr("spectron_migrate.migration.export.run_export", broken)
    code = sandbox.run("export", "--from", "get_all.json")
    assert "ZeroDivisionError" in (Path(".spectron-migrate") / "log.jsonl").read_text()
    return code


def bad_input(sandbox: Sandbox) -> int:
    return sandbox.run("replay", "--dump", "nowhere.json")


def refused(sandbox: Sandbox) -> int:
    def choose(seen: Seen) -> Fault:
        return "400" if b"number 1" in seen.body else "none"

    with misbehaving(sandbox.server.base_url, choose) as proxy:
        sandbox.patch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        return sandbox.run("replay", "--dump", "get_all.json")


def no_go(sandbox: Sandbox) -> int:
    assert 0 == sandbox.run("export", "--from", "get_all.json")
    assert 8 == sandbox.run("replay", "--limit", "1")
    return sandbox.run("dual-verify")


def inconclusive(sandbox: Sandbox) -> int:
    assert 0 == sandbox.run("export", "--from", "get_all.json")
    assert 0 == sandbox.run("replay")
    write_raw(Path("get_all.json"), sandbox.rows(3))
    assert 0 == sandbox.run("export", "--from", "get_all.json")
    return sandbox.run("dual-verify")


def key(sandbox: Sandbox) -> int:
    sandbox.patch.setenv("SPECTRON_API_KEY", "sk-another")
    return sandbox.run("replay", "--dump", "get_all.json")


def unreachable(sandbox: Sandbox) -> int:
    sandbox.patch.setattr("spectron_migrate.spectron.api.READ_TRIES", 1)
    sandbox.patch.setenv("SPECTRON_ENDPOINT", "http://127.0.0.1:9")
    return sandbox.run("replay", "--dump", "get_all.json")


def limit(sandbox: Sandbox) -> int:
    return sandbox.run("replay", "--dump", "get_all.json", "--limit", "1")


def locked(sandbox: Sandbox) -> int:
    assert 0 == sandbox.run("replay", "--dump", "get_all.json")
    with Ledger.open_for_writing(Path(".spectron-migrate")):
        ended = subprocess.run(
            [sys.executable, "-m", "spectron_migrate", "replay", "--dump", "get_all.json", "--json"],
            capture_output=True,
            text=True,
        )
    output.check(json.loads(ended.stdout))
    return ended.returncode


def not_legal(sandbox: Sandbox) -> int:
    register_scope(sandbox.server, f"user/{sandbox.user}")
    return sandbox.run("replay", "--dump", "get_all.json")


def incomplete(sandbox: Sandbox) -> int:
    Path("first_page.json").write_text(json.dumps({"results": [memory(1, sandbox.user)], "next": "page 2"}))
    return sandbox.run("export", "--from", "first_page.json")


def not_confirmed(sandbox: Sandbox) -> int:
    assert 0 == sandbox.run("export", "--from", "get_all.json")
    assert 0 == sandbox.run("replay")
    with Ledger.open_for_reading(Path(".spectron-migrate")) as ledger:
        migration = ledger.migration()
    assert migration is not None
    return sandbox.run("erase", "--migration", migration.id, "--scope", f"user/{sandbox.user}")


def signalled(sent: signal.Signals) -> Callable[[Sandbox], int]:
    def play(sandbox: Sandbox) -> int:
        write_raw(Path("get_all.json"), sandbox.rows(50))
        running: list[subprocess.Popen[str]] = []

        def signal_at(seen: Seen) -> Fault:
            if seen.path.endswith("/facts") and seen.number == 15:
                running[0].send_signal(sent)
            return "none"

        with misbehaving(sandbox.server.base_url, signal_at) as proxy:
            sandbox.patch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
            words = ["replay", "--dump", "get_all.json", "--json"]
            process = subprocess.Popen(
                [sys.executable, "-m", "spectron_migrate", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            running.append(process)
            out, _ = process.communicate(timeout=60)
        output.check(json.loads(out))
        return process.returncode

    return play


PRODUCED: dict[ExitCode, Callable[[Sandbox], int]] = {
    ExitCode.DONE: done,
    ExitCode.BUG: bug,
    ExitCode.INPUT: bad_input,
    ExitCode.REFUSED: refused,
    ExitCode.NO_GO: no_go,
    ExitCode.INCONCLUSIVE: inconclusive,
    ExitCode.KEY: key,
    ExitCode.UNREACHABLE: unreachable,
    ExitCode.LIMIT: limit,
    ExitCode.LOCKED: locked,
    ExitCode.NOT_LEGAL: not_legal,
    ExitCode.INCOMPLETE: incomplete,
    ExitCode.NOT_CONFIRMED: not_confirmed,
    ExitCode.SIGINT: signalled(signal.SIGINT),
    ExitCode.SIGTERM: signalled(signal.SIGTERM),
}


@pytest.mark.parametrize("code", PRODUCED, ids=lambda code: code.name.lower())
def test_every_exit_code_is_produced(sandbox: Sandbox, code: ExitCode) -> None:
    assert code == PRODUCED[code](sandbox)


def test_every_exit_code_is_tested_here_and_explained_on_the_page() -> None:
    assert set(ExitCode) == set(PRODUCED)
    explained = {
        int(number): meaning
        for numbers, meaning in re.findall(r"^\| ([\d, ]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
        for number in numbers.split(", ")
    }
    assert {int(code) for code in ExitCode} == set(explained)
    assert {int(code): code.meaning for code in ExitCode} == {code: each.strip() for code, each in explained.items()}
