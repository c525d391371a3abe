"""Commands as processes of their own, and the environment that leads them to a Spectron."""

from __future__ import annotations

import os
import sys

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment


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
