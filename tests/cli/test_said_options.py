"""Options that the documentation names, and that no other test gives on a command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.local.testing import RunningServer
from tests.support.spectron import memory, write_raw

BATCH = 'version: 1\nwrite: batch\nrules:\n  - when: {user_id: "*"}\n    scope: {user: "{user_id}"}\n'


def test_batches_with_extraction_go_only_where_their_expiry_is_accepted(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("ENDPOINT", spectron.base_url), ("CONTEXT", spectron.context), ("API_KEY", spectron.api_key)):
        monkeypatch.setenv(f"SPECTRON_{name}", value)
    write_raw(Path("all.json"), [memory(number, user) for number in range(3)])
    Path("mapping.yaml").write_text(BATCH)
    asked = ["replay", "--dump", "all.json", "--mapping", "mapping.yaml", "--json"]
    assert 2 == run(asked)
    assert "--accept-expiry" in capsys.readouterr().out
    assert 0 == run([*asked, "--accept-expiry", "--max-rps", "100"])
    assert 3 == json.loads(capsys.readouterr().out)["written"]


def test_a_local_spectron_without_extraction_says_so() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "local", "--port", "0", "--no-extraction"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    said = server.stderr.readline()
    server.terminate()
    server.communicate(timeout=30)
    assert said.strip().endswith("stores text only")
