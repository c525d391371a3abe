"""The README is followed as a newcomer would: from an empty directory to `complete`, with its own lines alone."""

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

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_YET = (4, 10)
"""What `cutover` ends with while following and comparing are still at it: a person waits and asks again."""


@dataclass
class Newcomer:
    """Somebody with an empty directory and a shell."""

    folder: Path
    environment: dict[str, str]
    left_running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def types(self, shown: Shown) -> None:
        """A line of the README: what it shows must come, and the exit code be 0."""
        words = shlex.split(shown.command)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[-1] == "&":
            self.leaves_running(shown)
        else:
            self.waits_for(shown)

    def leaves_running(self, shown: Shown) -> None:
        said = self.folder / f"said-{len(self.left_running)}.txt"
        with said.open("wb") as file:
            command = f"exec {shown.command.removesuffix('&')}"
            self.left_running.append(
                subprocess.Popen(
                    ["bash", "-c", command], cwd=self.folder, env=self.environment, stdout=file, stderr=file
                )
            )
        wait_until(lambda: not shown.lacks(said.read_text()), said=lambda: (shown.command, said.read_text()))

    def waits_for(self, shown: Shown) -> None:
        answers = [self.asks(shown.command)]

        def is_ready() -> bool:
            if answers[-1][0] in NOT_YET:
                answers.append(self.asks(shown.command))
            return answers[-1][0] not in NOT_YET

        wait_until(is_ready, every_s=0.5, said=lambda: answers[-1])
        code, said = answers[-1]
        assert (0, []) == (code, shown.lacks(said)), (shown.command, said)
        assert "Traceback" not in said

    def asks(self, command: str) -> tuple[int, str]:
        asked = ["bash", "-c", command]
        ended = subprocess.run(
            asked, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280
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
    for process in someone.left_running:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_own_lines_lead_to_complete(newcomer: Newcomer) -> None:
    # All that is changed: a port that is free here, and the id that the reader takes from `status`.
    for each in shown(README.replace("9090", str(free_port()))):
        if shlex.split(each.command)[0] in ("spectron-migrate", "export"):
            if "--migration ID" in each.command:
                told = json.loads(newcomer.asks("spectron-migrate status --json")[1])
                each = Shown(each.command.replace("--migration ID", f"--migration {told['migration']}"), each.answer)
            newcomer.types(each)
    told = json.loads(newcomer.asks("spectron-migrate status --json")[1])
    assert ("complete", True, None) == (told["cutover"]["phase"], told["cutover"]["sealed"], told["next"])
    _, following = newcomer.left_running
    assert 0 == following.wait(60)
    assert "the cutover is complete" in (newcomer.folder / "follow.log").read_text()


def test_what_it_installs_is_what_the_package_offers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.findall(r"(?:pipx|pip) install '([^']+)'|uvx --from '([^']+)' (\S+)", README)
    assert asked
    for installed, taken, command in asked:
        name, extra = re.fullmatch(r"(spectron-migrate|\.)\[([a-z]+)\]", installed or taken).groups()
        assert name in (project["name"], ".")
        assert extra in project["optional-dependencies"]
        assert command in ("", *project["scripts"])


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text()]
    named = {target for page in pages for target in re.findall(r"\bmake ([a-z-]+)", page.replace("made", ""))}
    assert {"demo", "test"} <= named
    assert [] == [target for target in sorted(named) if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
