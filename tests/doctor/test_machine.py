"""Disk space, file system, permissions and git."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from spectron_migrate.doctor.machine import check_machine
from tests.doctor.support import check_of


@pytest.mark.parametrize(("free_mb", "status"), [(1, "fail"), (500, "warn"), (5000, "ok")])
def test_a_disk_that_is_nearly_full_is_reported(tmp_path: Path, free_mb: int, status: str) -> None:
    checks = check_machine(tmp_path / "state", tmp_path / "dump", free=lambda _: free_mb << 20, mounts=lambda: [])
    check = check_of(checks, "disk: state")
    assert status == check.status
    assert check.finding.startswith(f"{free_mb} MB are free at {tmp_path}")


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4")]
    check = check_of(check_machine(tmp_path / "state", tmp_path / "dump", mounts=lambda: mounts), "file system")
    assert "fail" == check.status
    assert f"the state directory is on nfs4 ({tmp_path})" == check.finding


def test_a_local_file_system_is_fine(tmp_path: Path) -> None:
    checks = check_machine(tmp_path / "state", tmp_path / "dump", mounts=lambda: [("/", "ext4")])
    assert "ok" == check_of(checks, "file system").status


def test_a_directory_that_others_can_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    os.chmod(tmp_path / "state", 0o755)
    check = check_of(check_machine(tmp_path / "state", tmp_path / "dump"), "privacy")
    assert "warn" == check.status
    assert "mode 755" in check.finding


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_dump_that_git_tracks_is_reported(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    (dump / "memories.jsonl").write_text("{}\n")
    assert "ok" == check_of(check_machine(tmp_path / "state", dump), "git").status
    for words in (["init", "-q"], ["add", "-f", "dump/memories.jsonl"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    check = check_of(check_machine(tmp_path / "state", dump), "git")
    assert "fail" == check.status
    assert str(dump) in check.finding
