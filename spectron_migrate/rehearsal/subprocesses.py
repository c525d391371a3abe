"""What a rehearsal plays on: a real Mem0 store made for it, and a local Spectron as its own process."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.errors import InputError, Unreachable

CONTEXT = "rehearsal"
FOREIGN_PREFIXES = ("SPECTRON_", "AGENT_MEMORY_", "MEM0_")
"""Variables that could lead a rehearsal to somebody's real service: none is looked at, none is handed on."""

_MAKE_STORE = "import sys; from pathlib import Path; from spectron_migrate.rehearsal.store import make_store; \
print(make_store(Path(sys.argv[1])))"


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A local Spectron that answers."""

    endpoint: str
    context: str
    api_key: str

    def __repr__(self) -> str:
        return f"LocalServer(endpoint={self.endpoint!r})"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a command to it."""
        return {
            "SPECTRON_ENDPOINT": self.endpoint,
            "SPECTRON_CONTEXT": self.context,
            "SPECTRON_API_KEY": self.api_key,
        }


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without anything that leads to a real service."""
    return {name: value for name, value in environment.items() if not name.startswith(FOREIGN_PREFIXES)}


def make_store(folder: Path, environment: Mapping[str, str]) -> Path:
    """Make a real, small Mem0 store with `mem0ai` in a process of its own; returns its Mem0 config.

    Raises InputError where the extra `local` is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Inherited stdin or stdout would let a library of the store speak into our own output.
    made = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-c", _MAKE_STORE, str(folder)],
        env=clean_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        last = (made.stderr.strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last:
            raise InputError(
                f"making a Mem0 store needs the extra `local`: {last.split(':', 1)[-1].strip()}",
                hint="pip install 'spectron-migrate[local]'",
            )
        raise RuntimeError(f"the rehearsal's Mem0 store could not be made:\n{made.stderr}")
    return Path(made.stdout.strip().splitlines()[-1])


@contextmanager
def local_spectron(data: Path, environment: Mapping[str, str]) -> Iterator[LocalServer]:
    """Serve a local Spectron on a free port while the block runs; raises Unreachable where it does not start."""
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
        start_new_session=True,  # Ctrl-C is ours to handle; the server ends after us
    )
    try:
        yield LocalServer(_listening(server), CONTEXT, key)
    finally:
        server.terminate()
        try:
            server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()


def _listening(server: subprocess.Popen[str]) -> str:
    """The endpoint, from the line that the server writes when it listens."""
    assert server.stderr is not None  # noqa: S101 - asked for
    said: list[str] = []
    for line in server.stderr:
        said.append(line)
        if line.startswith("local Spectron at "):
            return line.removeprefix("local Spectron at ").split(",")[0].strip()
    output = server.stdout.read() if server.stdout else ""
    with_error = [json.loads(line)["error"] for line in output.splitlines() if line.startswith("{")]
    if with_error:
        raise InputError(with_error[0]["message"], hint=with_error[0]["hint"])
    raise Unreachable(f"the local Spectron did not start: {''.join(said).strip() or 'no message'}")


def scratch_environment() -> dict[str, str]:
    """This process's environment, cleaned."""
    return clean_environment(os.environ)
