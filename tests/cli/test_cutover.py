"""`cutover` on the command line, where it needs no Spectron that answers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.mem0.stores.unsupported import REASONS
from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.command import command

NO_SPECTRON = {
    "SPECTRON_ENDPOINT": "http://127.0.0.1:9",
    "SPECTRON_CONTEXT": "acme",
    "SPECTRON_API_KEY": "sk-test",
}


@pytest.mark.parametrize("provider", [None, *REASONS])
def test_no_cutover_begins_from_a_source_that_cannot_be_followed(tmp_path: Path, provider: str | None) -> None:
    """None: from files."""
    (tmp_path / "all.json").write_text("[]")
    (tmp_path / "mem0.json").write_text(json.dumps({"vector_store": {"provider": provider}}))
    mem0: dict[str, Any] = {"oss": {"config": "mem0.json"}} if provider else {"files": ["all.json"]}
    problem = f"a store of {provider} cannot be followed" if provider else "raw files do not change"
    (tmp_path / "spectron-migrate.yaml").write_text(json.dumps({"version": 1, "mem0": mem0}))
    environment = {**clean_environment(os.environ), **NO_SPECTRON}
    ended = command(tmp_path, "cutover", "start", environment=environment)
    assert ExitCode.INPUT == ended.returncode, ended
    assert problem in ended.stderr
    assert "hint: " in ended.stderr
    assert not list((tmp_path / ".spectron-migrate").glob("cutover*"))
