"""Makes the Mem0 store and serves the local Spectron of a rehearsal, each in a process of its own."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.rehearsal import store

CONTEXT = "rehearsal"
EXTRA = ("starlette", "uvicorn", "wordllama", "numpy")
"""Modules of the extra `local`."""
FOREIGN_PREFIXES = ("SPECTRON_", "AGENT_MEMORY_", "SURREAL_MEMORY_", "MEM0_")
"""Variables that could point a rehearsal at a real service. They are neither read nor passed on."""


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A running local Spectron."""

    endpoint: str
    context: str
    api_key: str

    def __repr__(self) -> str:
        return f"LocalServer(endpoint={self.endpoint!r})"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a command uses it."""
        return {
            "SPECTRON_ENDPOINT": self.endpoint,
            "SPECTRON_CONTEXT": self.context,
            "SPECTRON_API_KEY": self.api_key,
        }


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that point at a real service."""
    return {name: value for name, value in environment.items() if not name.startswith(FOREIGN_PREFIXES)}


def make_store_in_subprocess(folder: Path, environment: Mapping[str, str]) -> Path:
    """Make the Mem0 store of a rehearsal in a process of its own; returns the path of its Mem0 config.

    Raises InputError if the extra `local` is missing.
    """
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise InputError(
            f"a rehearsal needs the extra `local` ({', '.join(missing)} is not installed)",
            hint="pip install 'spectron-migrate[local]'",
        )
    folder.mkdir(parents=True, exist_ok=True)
    # With an inherited stdout, a library of Mem0 could print into our output.
    process = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", store.__name__, str(folder)],
        env=clean_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        if any(name in last for name in ("ModuleNotFoundError", "ImportError", InputError.__name__)):
            raise InputError(
                f"making a Mem0 store needs the extra `local`: {last.split(':', 1)[-1].strip()}",
                hint="pip install 'spectron-migrate[local]'",
            )
        raise RuntimeError(f"the rehearsal's Mem0 store could not be made:\n{process.stderr}")
    return Path(process.stdout.strip().splitlines()[-1])


@contextmanager
def local_spectron(data: Path, environment: Mapping[str, str]) -> Iterator[LocalServer]:
    """Serve a local Spectron on a free port during the block; raises Unreachable if it does not start."""
    data.mkdir(parents=True, exist_ok=True)
    key = secrets.token_urlsafe(24)
    command = ["-m", "spectron_migrate", "local", "--port", "0", "--data", str(data), "--context", CONTEXT, "--json"]
    server = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, *command],
        env={**clean_environment(environment), "SPECTRON_API_KEY": key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the server last
    )
    try:
        yield LocalServer(_wait_for_endpoint(server), CONTEXT, key)
    finally:
        server.terminate()
        try:
            server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()


def _wait_for_endpoint(server: subprocess.Popen[str]) -> str:
    """The endpoint, from the line that the server prints when it listens."""
    assert server.stderr is not None  # noqa: S101 - asked for
    lines: list[str] = []
    for line in server.stderr:
        lines.append(line)
        if line.startswith("local Spectron at "):
            return line.removeprefix("local Spectron at ").split(",")[0].strip()
    output = server.stdout.read() if server.stdout else ""
    errors = [json.loads(line)["error"] for line in output.splitlines() if line.startswith("{")]
    if errors:
        raise InputError(errors[0]["message"], hint=errors[0]["hint"])
    raise Unreachable(f"the local Spectron did not start: {''.join(lines).strip() or 'no message'}")
