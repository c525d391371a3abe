"""`local` as a process: how a command is led to it, and what it refuses to serve."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from spectron_migrate.rehearsal.subprocesses import clean_environment, local_spectron
from tests.cli.support import command_line
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow


def serve(*words: str) -> subprocess.CompletedProcess[str]:
    """A `local` that is expected to refuse to serve."""
    return subprocess.run(
        command_line("local", "--port", "0", *words), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_variables_that_it_prints_lead_a_command_to_it(tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, "alice")])
    with local_spectron(tmp_path / "data", os.environ) as server:
        ended = subprocess.run(
            command_line("replay", "--dump", str(dump), "--user", "alice", "--json"),
            cwd=tmp_path,
            env={**clean_environment(os.environ), **server.environment},
            capture_output=True,
            text=True,
            check=False,
        )
    assert 0 == ended.returncode
    assert 1 == json.loads(ended.stdout)["written"]


def assert_refused_in_one_sentence(ended: subprocess.CompletedProcess[str]) -> None:
    assert 2 == ended.returncode, ended.stderr
    assert "" == ended.stdout
    assert ended.stderr.startswith("error: the local Spectron cannot serve")
    assert "Traceback" not in ended.stderr


def test_data_that_another_process_serves_are_refused(tmp_path: Path) -> None:
    with local_spectron(tmp_path / "data", os.environ) as server:
        assert_refused_in_one_sentence(serve("--data", str(tmp_path / "data"), "--context", server.context))


def test_data_that_are_no_database_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 50)
    assert_refused_in_one_sentence(serve("--data", str(tmp_path), "--context", "broken"))


def test_without_extraction_it_says_that_it_stores_text_only() -> None:
    server = subprocess.Popen(
        command_line("local", "--port", "0", "--no-extraction"), stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    first_line = server.stderr.readline()
    server.terminate()
    server.communicate(timeout=30)
    assert first_line.strip().endswith("stores text only")
