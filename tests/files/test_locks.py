"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.files.locks import holder_of, is_held, try_lock, wait_for_lock

HOLD = """
import sys
from pathlib import Path
from spectron_migrate.files.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused_and_its_holder_named(
    path: Path, other: subprocess.Popen[str]
) -> None:
    assert try_lock(path) is None
    assert is_held(path)
    assert f"process {other.pid}" == holder_of(path)


def test_a_killed_process_holds_nothing(path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert not is_held(path)
    with wait_for_lock(path):
        assert is_held(path)


def test_a_lock_is_free_after_its_block_and_for_its_owner_alone(path: Path) -> None:
    lock = try_lock(path)
    assert lock is not None
    with lock:
        assert f"process {os.getpid()}" == holder_of(path)
        assert 0o600 == path.stat().st_mode & 0o777
        assert try_lock(path) is None
    assert not is_held(path)


def test_a_lock_file_that_its_holder_removed_locks_nobody_out(path: Path) -> None:
    first = try_lock(path)
    assert first is not None
    path.unlink()
    second = try_lock(path)
    assert second is not None
    assert try_lock(path) is None
    first.close()
    assert is_held(path)


def test_who_holds_an_unwritten_lock_is_another_process(path: Path) -> None:
    assert "another process" == holder_of(path)
    path.write_bytes(b"")
    assert "another process" == holder_of(path)
    path.write_text("process 12\n")
    assert "process 12" == holder_of(path)
