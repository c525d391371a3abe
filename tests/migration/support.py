"""`replay --follow` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.scene import Store


def write_settings(folder: Path, store: Store, *, settle: str = "0s") -> Path:
    (folder / "mem0.json").write_text(json.dumps(store.config))
    file = folder / "spectron-migrate.yaml"
    file.write_text(f"version: 1\nmem0: {{oss: {{config: mem0.json}}}}\ncutover: {{settle: {settle}}}\n")
    return file


def environment_of(server: RunningServer) -> dict[str, str]:
    return {
        **clean_environment(os.environ),
        "SPECTRON_ENDPOINT": server.base_url,
        "SPECTRON_CONTEXT": server.context,
        "SPECTRON_API_KEY": server.api_key,
    }


def following(folder: Path, server: RunningServer, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "replay", "--follow", *words],
        cwd=folder,
        env=environment_of(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], fits: Callable[[str], bool]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if fits(line):
            return line
    raise AssertionError("it ended")
