"""Commands as processes of their own, and the environment that leads them to a Spectron."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support import output, warm
from tests.support.command import command
from tests.support.restricted import obey_permissions


def command_line(*words: str) -> list[str]:
    """The command line of a command in a process of its own."""
    return [sys.executable, "-m", "spectron_migrate", *words]


def access_variables(server: RunningServer, endpoint: str | None = None) -> dict[str, str]:
    """The variables that lead a command to a server, or to a proxy before it."""
    return {
        "SPECTRON_ENDPOINT": endpoint or server.base_url,
        "SPECTRON_CONTEXT": server.context,
        "SPECTRON_API_KEY": server.api_key,
    }


def environment_for(server: RunningServer, endpoint: str | None = None) -> dict[str, str]:
    """A complete environment with these variables and no others of ours."""
    return {**clean_environment(os.environ), **access_variables(server, endpoint)}


def run_in(
    folder: Path,
    server: RunningServer,
    words: list[str],
    restrict: Callable[[], None] = obey_permissions,
    *,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """The object of a command in a process that may do less; it may fail, but as `checked` says."""
    environment = environment_for(server, endpoint)
    return checked(warm.run_command(folder, *words, "--json", environment=environment, before=restrict))


def run_here(folder: Path, server: RunningServer, words: list[str]) -> dict[str, Any]:
    """The object of the same command in this process, where nothing is forbidden."""
    return checked(command(folder, *words, "--json", environment=environment_for(server)))


def checked(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The object of a command that may have failed, but neither with a traceback nor without its one JSON object."""
    assert "Traceback" not in ended.stderr
    assert 1 == ended.stdout.count("\n"), ended.stdout + ended.stderr
    answer = json.loads(ended.stdout)
    output.check(answer)
    assert ended.returncode == answer["exit_code"]
    return dict(answer)
