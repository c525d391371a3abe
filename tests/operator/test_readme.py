"""The commands of the quickstart, run in an empty directory, lead to `complete` and print what it shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.operator.console import Shown, shown
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
NOT_YET = (4, 10)
"""Exit codes of `cutover` while following and comparing are not finished: a person waits and repeats the command."""


@dataclass
class Newcomer:
    """A person with an empty directory and a shell."""

    folder: Path
    environment: dict[str, str]
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def enter(self, shown: Shown) -> None:
        """Run a command of the page; its output must contain what the page shows, and its exit code be 0."""
        words = shlex.split(shown.command)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[-1] == "&":
            self.start_in_background(shown)
        else:
            self.run_until_ready(shown)

    def start_in_background(self, shown: Shown) -> None:
        output = self.folder / f"output-{len(self.background)}.txt"
        with output.open("wb") as file:
            command = f"exec {shown.command.removesuffix('&')}"
            self.background.append(
                subprocess.Popen(
                    ["bash", "-c", command], cwd=self.folder, env=self.environment, stdout=file, stderr=file
                )
            )
        wait_until(lambda: not shown.missing_from(output.read_text()), said=lambda: (shown.command, output.read_text()))

    def run_until_ready(self, shown: Shown) -> None:
        answers = [self.run(shown.command)]

        def is_ready() -> bool:
            if answers[-1][0] in NOT_YET:
                answers.append(self.run(shown.command))
            return answers[-1][0] not in NOT_YET

        wait_until(is_ready, every_s=1.0, said=lambda: answers[-1])
        code, output = answers[-1]
        assert 0 == code, (shown.command, output)
        assert [] == shown.missing_from(output), (shown.command, output)
        assert "Traceback" not in output

    def run(self, command: str) -> tuple[int, str]:
        words = ["bash", "-c", command]
        ended = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280
        )
        return ended.returncode, ended.stderr + ended.stdout


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    """The command is on the PATH, as after an installation; nothing else is there."""
    command = tmp_path / "bin" / "spectron-migrate"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m spectron_migrate "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    someone = Newcomer(folder, {**clean_environment(os.environ), "PATH": path, "HOME": str(tmp_path), "COLUMNS": "80"})
    yield someone
    for process in someone.background:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_commands_lead_to_complete(newcomer: Newcomer) -> None:
    # Two things are replaced: the port by a free one, and ID by the id that `status` shows.
    for each in shown(QUICKSTART.replace("9090", str(free_port()))):
        if shlex.split(each.command)[0] in ("spectron-migrate", "export"):
            if "--migration ID" in each.command:
                status = json.loads(newcomer.run("spectron-migrate status --json")[1])
                each = Shown(each.command.replace("--migration ID", f"--migration {status['migration']}"), each.answer)
            newcomer.enter(each)
    status = json.loads(newcomer.run("spectron-migrate status --json")[1])
    assert "complete" == status["cutover"]["phase"]
    assert status["cutover"]["sealed"] is True
    assert status["next"].endswith("cutover check"), "after a day"
    _, following = newcomer.background
    assert 0 == following.wait(60)
    assert "the cutover is complete" in (newcomer.folder / "follow.log").read_text()


def test_it_installs_extras_that_the_package_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pattern = r"(?:pipx|pip) install '([^']+)'|uvx --from '([^']+)' ([\w-]+)"
    asked = re.findall(pattern, README + QUICKSTART)
    assert asked
    for installed, taken, command in asked:
        name, extra = re.fullmatch(r"(spectron-migrate|\.)\[([a-z]+)\]", installed or taken).groups()
        assert name in (project["name"], ".")
        assert extra in project["optional-dependencies"]
        assert command in ("", *project["scripts"])


def test_every_target_of_make_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text()]
    command = re.compile(r"(?:`|\$ |^ *)make ([a-z-]+)", re.MULTILINE)
    named = {target for page in pages for target in command.findall(page)}
    assert {"demo", "test"} <= named
    assert [] == [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
