"""`rehearse`: the whole migration on one machine, without any request to another."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.rehearsal.subprocesses import clean_environment
from tests.support.spectron import memory, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def canary() -> Iterator[tuple[str, list[str]]]:
    """An address, and the list of connections to it, which must stay empty."""
    visits: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            visits.append("a connection")
            connection.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", visits
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def rehearse(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spectron_migrate", "rehearse", *options],
        cwd=folder,
        env={**clean_environment(os.environ), "HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def steps(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert 0 == ended.returncode, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)["steps"]
    return found


def test_it_makes_migrates_and_verifies_a_store_without_a_request_to_any_service_of_the_environment(
    tmp_path: Path,
) -> None:
    (tmp_path / "home").mkdir()
    with canary() as (endpoint, visits):
        (tmp_path / "spectron-migrate.yaml").write_text(
            f"version: 1\nspectron: {{endpoint: {endpoint}, context: real}}\n"
            f"mem0: {{platform: {{base_url: {endpoint}}}}}\n"
        )
        foreign = {
            f"{family}_{name}": value
            for family in ("SPECTRON", "AGENT_MEMORY", "SURREAL_MEMORY")
            for name, value in (
                *(("ENDPOINT", endpoint), ("URL", endpoint), ("CONTEXT", "real"), ("CONTEXT_ID", "real")),
                ("API_KEY", "sk-real-key-0123456789"),
            )
        }
        done = steps(rehearse(tmp_path, "--json", **foreign, MEM0_API_KEY="m0-x", MEM0_BASE_URL=endpoint))
    assert [] == visits
    assert {"complete": True, "memories": 167, "native_count": 167, "users": 5, "agents": 2}.items() <= done[
        "export"
    ].items()
    replayed = {"written": 164, "skipped": 3, "remaining": 0}
    assert replayed == {name: done["replay"][name] for name in replayed}
    assert 0 == done["replay again"]["written"]
    assert 164 == done["replay again"]["already"]
    integrity = done["dual-verify"]["integrity"]
    assert 164 == integrity["expected"]
    assert 164 == integrity["present"]
    for kind in ("missing", "altered", "doubled", "misplaced"):
        assert [] == integrity[kind]
    assert [] == done["dual-verify"]["leaks"]
    assert 46 == done["dual-verify"]["queries"]
    assert ["home", "spectron-migrate.yaml"] == sorted(path.name for path in tmp_path.iterdir())
    assert [] == list((tmp_path / "home").iterdir())


def test_with_a_raw_file_it_makes_no_store(tmp_path: Path) -> None:
    rows = [memory(number, user) for user in ("alice", "bob") for number in range(8)]
    dump = write_raw(tmp_path / "get_all.json", rows)
    done = steps(rehearse(tmp_path, "--dump", str(dump), "--json"))
    assert "export" not in done
    assert 16 == done["replay"]["written"]
    assert 0 == done["replay again"]["written"]
    assert 16 == done["dual-verify"]["integrity"]["present"]


def test_it_prints_each_command_line_before_its_summary_and_keeps_a_folder_that_commands_can_use(
    tmp_path: Path,
) -> None:
    dump = write_raw(tmp_path / "get_all.json", [memory(number, "alice") for number in range(3)])
    ended = rehearse(tmp_path, "--dump", str(dump), "--keep", "kept")
    assert 0 == ended.returncode, ended.stderr
    shown = [line for line in ended.stdout.splitlines() if line.startswith("$ ")]
    assert ["replay", "replay", "dual-verify"] == [line.split()[2] for line in shown]
    assert "Rehearsal passed" in ended.stdout
    # Which gates it does not decide, and why each is open.
    words = " ".join(ended.stdout.rpartition("(the verdict is ")[2].split())
    assert words.startswith("INCONCLUSIVE because of what a rehearsal does not decide: source, not measured: raw files")
    assert "no user sees another's" not in ended.stdout  # there is only one
    status = subprocess.run(
        [sys.executable, "-m", "spectron_migrate", "status", "--json"],
        cwd=tmp_path / "kept",
        env=clean_environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert 3 == sum(json.loads(status.stdout)["states"].values())


def test_a_folder_that_is_not_empty_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    ended = rehearse(tmp_path, "--keep", "kept")
    assert 2 == ended.returncode
    assert ["mine.txt"] == [path.name for path in (tmp_path / "kept").iterdir()]
