"""Commands as processes of their own, and the environment that leads them to a Spectron."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support import output
from tests.support.command import command

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


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


def obey_permissions() -> None:
    """In a child that is root: the program that it becomes may only write where the permissions allow it."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def full_disk(largest: int) -> Callable[[], None]:
    """In a child: no file may grow beyond so many bytes, as on a disk that is full, or nearly."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def run_in(
    folder: Path,
    server: RunningServer,
    words: list[str],
    prepare: Callable[[], None] = obey_permissions,
    *,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """The object of a command in a process that may do less; it may fail, but as `checked` says."""
    ended = subprocess.run(
        command_line(*words, "--json"),
        cwd=folder,
        env={**environment_for(server, endpoint), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return checked(ended)


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
