"""A directory that cannot be written: one sentence with the path, exit 2, one JSON object, whichever command runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.cli.support import command_line, environment_for, run_here, run_in
from tests.support.restricted import full_disk
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow


def a_file(path: Path) -> None:
    path.write_text("not a directory\n")


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere") / "deeper")


def a_read_only_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o500)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("not a directory\n")


COMMANDS: dict[str, list[str]] = {
    "export": ["export", "--from", "get_all.json", "--dump", "PLACE"],
    "replay": ["replay", "--dump", "get_all.json", "--state", "PLACE"],
    "follow": ["replay", "--follow", "--state", "PLACE"],
    "status": ["status", "--state", "PLACE"],
    "dual-verify": ["dual-verify", "--dump", "get_all.json", "--state", "PLACE"],
    "cutover start": ["cutover", "start", "--yes", "--state", "PLACE"],
    "cutover check": ["cutover", "check", "--state", "PLACE"],
    "erase": ["erase", "--migration", "x", "--yes", "--state", "PLACE"],
    "rehearse": ["rehearse", "--dump", "get_all.json", "--keep", "PLACE"],
    "local": ["local", "--port", "0", "--data", "PLACE"],
    "doctor --probe": ["doctor", "--probe", "--state", "PLACE"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_calls_a_directory_that_it_cannot_write_a_bug(
    command: str, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(1, user)])
    place = tmp_path / "place"
    a_read_only_directory(place)
    words = [str(place) if word == "PLACE" else word for word in COMMANDS[command]]
    answer = run_in(tmp_path, spectron, words)
    assert 1 != answer["exit_code"], answer


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("export", a_file),
        ("export", a_dangling_link),
        ("export", below_a_file),
        ("replay", a_file),
        ("replay", a_dangling_link),
        ("replay", below_a_file),
        ("replay", a_read_only_directory),
        ("rehearse", a_dangling_link),
        ("rehearse", a_read_only_directory),
    ],
)
def test_a_path_that_takes_no_directory_is_named_in_one_sentence(
    command: str, place: Callable[[Path], None], spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(1, user)])
    path = tmp_path / "outer" / "place"
    path.parent.mkdir()
    place(path)
    words = [str(path) if word == "PLACE" else word for word in COMMANDS[command]]
    answer = run_in(tmp_path, spectron, words)
    assert 2 == answer["exit_code"], answer
    assert str(path.parent) in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]


@pytest.mark.parametrize("command", ["export", "replay"])
def test_a_full_disk_is_one_sentence_with_the_path(
    command: str, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(each, user, "tea " * 400 + str(each)) for each in range(60)])
    place = tmp_path / "place"
    words = [str(place) if word == "PLACE" else word for word in COMMANDS[command]]
    answer = run_in(tmp_path, spectron, words, full_disk(48 * 1024))
    assert answer["exit_code"] in (2, 7)
    assert "place" in answer["error"]["message"]


@pytest.mark.parametrize("known", [False, True])
def test_a_dry_run_needs_no_directory_that_it_can_write(
    known: bool, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(1, user), memory(2, user)])
    if known:
        run_here(tmp_path, spectron, ["replay", "--dump", "get_all.json", "--limit", "1"])
        (tmp_path / ".spectron-migrate").chmod(0o500)
    tmp_path.chmod(0o500)
    try:
        before = sorted(os.listdir(tmp_path))
        answer = run_in(tmp_path, spectron, ["replay", "--dump", "get_all.json", "--dry-run"])
        assert 0 == answer["exit_code"], answer
        assert (1 if known else 2) == answer["forecast"]["memories"]
        assert before == sorted(os.listdir(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_status_reads_a_ledger_in_a_directory_that_it_cannot_write(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(1, user)])
    run_here(tmp_path, spectron, ["replay", "--dump", "get_all.json"])
    (tmp_path / ".spectron-migrate").chmod(0o500)
    answer = run_in(tmp_path, spectron, ["status"])
    assert 0 == answer["exit_code"], answer


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_terminal_cannot_show_is_replaced(
    encoding: str, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    write_raw(tmp_path / "get_all.json", [memory(1, user, "茶 ☕ ż")])
    for words in (["replay", "--dump", "get_all.json", "--dry-run"], ["replay", "--dump", "茶.json"]):
        ended = subprocess.run(
            command_line(*words),
            cwd=tmp_path,
            env={**environment_for(spectron), "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in ended.stderr
        assert b"bug" not in ended.stderr
