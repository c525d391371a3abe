"""What a process that uses the adapter leaves in the state directory while it lives and when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from spectron_migrate.adapter.counters import ProcessCounters
from spectron_migrate.adapter.guard import Guard
from spectron_migrate.adapter.heartbeat import Heartbeat
from spectron_migrate.database.location import parse_location
from spectron_migrate.rehearsal.subprocesses import clean_environment
from spectron_migrate.settings.types import GuardSettings
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.processes import ProcessesStatus, fold, read_processes
from spectron_migrate.state.routing_reader import RoutingReader
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ledger_file  # the application is a process of its own

APPLICATION = """
import sys
from spectron_migrate import MemoryAdapter


class Client:
    def search(self, query, *, user_id=None, limit=10):
        return {"results": []}


memory = MemoryAdapter(Client(), state=sys.argv[1])
memory.search("tea", user_id="alice")
memory._core.heartbeat.beat()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> subprocess.Popen[bytes]:
    """An application that has searched once, and ends when its standard input is closed."""
    (tmp_path / "state").mkdir()
    started = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, "state"],
        cwd=tmp_path,
        env=clean_environment(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert started.stdout is not None
    assert b"ready\n" == started.stdout.readline()
    return started


def end(process: subprocess.Popen[bytes], *, kill: bool) -> None:
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def seen(tmp_path: Path) -> ProcessesStatus:
    """What is known of the processes, also once their files are folded."""
    before = read_processes(tmp_path / "state")
    fold(tmp_path / "state")
    after = read_processes(tmp_path / "state")
    assert before.lost == after.lost
    assert before.last_reads == after.last_reads
    return after


def test_a_process_that_ends_says_so_and_is_not_lost(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert {socket.gethostname()} == set(read_processes(tmp_path / "state").last_reads)
    end(process, kill=False)
    assert {} == seen(tmp_path).lost
    assert {socket.gethostname()} == set(seen(tmp_path).last_reads)


def test_a_process_that_is_killed_is_lost(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert {} == read_processes(tmp_path / "state").lost
    end(process, kill=True)
    assert [f"{socket.gethostname()}/{process.pid}"] == list(seen(tmp_path).lost)


def test_a_database_whose_tables_are_gone_ends_no_heartbeat(
    postgres: str, postgres_state: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = PostgresState(parse_location(postgres_state))
    state.write("verdict", b"{}")
    heartbeat = Heartbeat(state, RoutingReader(state), ProcessCounters(), Guard(GuardSettings(), clock=time.monotonic))
    heartbeat.beat()
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f'DROP TABLE "{parse_location(postgres_state).schema}".document')
    heartbeat.begin()
    wait_until(lambda: any("cannot be written" in record.message for record in caplog.records))
    assert any(thread.name == "spectron-adapter" for thread in threading.enumerate())
    heartbeat.close()
    state.close()
