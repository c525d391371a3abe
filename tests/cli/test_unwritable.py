"""Every command that writes, with every place that it writes to: read-only, and on a full disk.

What a command writes is found by running it, so a file that it writes one day is tried as well.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.cli.support import environment_for, run_here, run_in
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.command import command
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.restricted import full_disk
from tests.support.spectron import memory, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = " and more" * 40
FOLLOW = "replay --follow --max-seconds 1"
BEGUN = ["export", "replay"]
CUT_OVER = ["cutover start", *BEGUN]
VERIFIED = [*CUT_OVER, FOLLOW, "dual-verify --accept recall"]
COMMANDS: dict[str, tuple[list[str], str]] = {
    "init": ([], "init --config fresh/spectron-migrate.yaml"),
    "export": ([], "export"),
    "replay": (["export"], "replay"),
    "adopt": ([*BEGUN, "(lose the ledger)"], "replay --adopt"),
    "follow": (CUT_OVER, FOLLOW),
    "dual-verify": (BEGUN, "dual-verify"),
    "cutover start": ([], "cutover start"),
    "cutover check": (CUT_OVER, "cutover check"),
    "cutover accept": (CUT_OVER, "cutover accept application --reason rehearsal"),
    "cutover shift": (VERIFIED, "cutover shift 5"),
    "cutover revert": (VERIFIED, "cutover revert"),
    "cutover abort": (CUT_OVER, "cutover abort --yes"),
    "doctor --probe": ([], "doctor --probe"),
    "erase": (BEGUN, "erase --migration MIGRATION --scope user/USER --yes user/USER"),
    "explain": (BEGUN, "explain USER"),
    "status": (BEGUN, "status"),
}
"""Name -> what was run before, and its line."""


EVERYTHING = os.environ.get("SPECTRON_MIGRATE_DISK") == "all"
"""As `make chaos` runs it: each command with each place and each size."""
READ_ONLY = ["init", "export", "replay", "dual-verify", "cutover accept", "erase"]
"""Commands that between them write every file of the state, the dump, the reports and the metrics."""

FULL = ["init", "export", "replay", "dual-verify", "cutover start", "doctor --probe", "erase", "explain", "status"]


@dataclass
class World:
    """A directory with a small Mem0 and settings that name every file that is written."""

    folder: Path
    server: RunningServer
    user: str

    def make(self, before: list[str]) -> None:
        points = [
            (
                key_of(uuid(each)),
                point(uuid(each), data=f"{self.user} likes tea {each} {'and ' * 99}", user_id=self.user),
            )
            for each in range(12)
        ]
        for name in ("fresh", "metrics", "reports"):
            (self.folder / name).mkdir(parents=True)
        write_store(self.folder / "mem0", points)
        config = {"collection_name": "mem0", "path": str(self.folder / "mem0" / "store")}
        (self.folder / "mem0.yaml").write_text(json.dumps({"vector_store": {"provider": "qdrant", "config": config}}))
        (self.folder / "spectron-migrate.yaml").write_text(
            "version: 1\nmem0: {oss: {config: mem0.yaml}}\nmetrics: {textfile: metrics/spectron.prom}\n"
            "verify: {reports: [reports/v.html, reports/v.json]}\ncutover: {settle: 1s}\n"
            "spectron: {timeout: 5s}\n"  # an erase that was cut off is outlasted for so long
        )
        for line in before:
            if line == "(lose the ledger)":
                shutil.rmtree(self.folder / ".spectron-migrate")
                continue
            ended = command(self.folder, *line.split(), environment=environment_for(self.server))
            assert ended.returncode in (0, 5), ended

    def words(self, line: str) -> list[str]:
        if "MIGRATION" in line:
            status = command(self.folder, "status", "--json", environment=environment_for(self.server))
            line = line.replace("MIGRATION", json.loads(status.stdout)["migration"])
        return line.replace("USER", self.user).split()

    def files(self) -> dict[str, tuple[int, int]]:
        """Path -> inode and time of the last change."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file():
                stat = path.stat()
                found[str(path.relative_to(self.folder))] = (stat.st_ino, stat.st_mtime_ns)
        return found


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A path that cannot be written; where it is not there, the directory in which it would be made."""
    while not path.exists():
        path = path.parent
    mode = path.stat().st_mode
    path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        path.chmod(mode)


def places_of(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    """Where a command wrote: each directory in which a file is new, and each file that it wrote in place."""
    written = {
        path for path in after if after[path] != before.get(path) and not path.endswith(("-shm", "-wal", ".lock"))
    }
    in_place = {path for path in written if path in before and before[path][0] == after[path][0]}
    return [*sorted({str(Path(path).parent) for path in written - in_place}), *sorted(in_place)]


def check(answer: dict[str, Any], place: str, usual: int) -> bool:
    """Whether the command did without it; otherwise it says in one sentence what cannot be written."""
    if answer["exit_code"] == usual:
        assert not place.endswith("log.jsonl") or any("log.jsonl" in text for text in answer["warnings"])
        return True
    assert answer["exit_code"] in (2, 7), (place, answer)
    message = answer["error"]["message"]
    assert "\n" not in message
    assert Path(place).parts[0] in message, (place, message)
    return False


@pytest.mark.parametrize("name", COMMANDS if EVERYTHING else READ_ONLY)
def test_what_cannot_be_written_is_one_sentence_with_the_path(
    name: str, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    before, line = COMMANDS[name]
    untouched = World(tmp_path / "untouched", spectron, f"{user}-0")
    untouched.make(before)
    words, files = untouched.words(line), untouched.files()
    usual = run_here(untouched.folder, spectron, words)["exit_code"]
    places = places_of(files, untouched.files())
    for number, place in enumerate(places, 1):
        world = World(tmp_path / f"read-only-{number}", spectron, f"{user}-{number}")
        world.make(before)
        words = world.words(line)
        with read_only(world.folder / place):
            answer = run_in(world.folder, spectron, words)
        check(answer, place, usual)
        if answer["exit_code"] != usual and (untouched.folder / place).is_dir():  # running again is safe
            again = run_here(world.folder, spectron, words)
            # An abort was noted and not published: the second one only publishes it.
            assert again["exit_code"] in (usual, 10 if name == "cutover abort" else usual), (place, answer, again)


@pytest.mark.parametrize("largest", [0, 1_500, 20_000, 45_000] if EVERYTHING else [0])
@pytest.mark.parametrize("name", COMMANDS if EVERYTHING else FULL)
def test_a_full_disk_is_one_sentence_with_a_path(
    name: str, largest: int, spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    before, line = COMMANDS[name]
    world = World(tmp_path / "world", spectron, user)
    world.make(before)
    words = world.words(line)
    answer = run_in(world.folder, spectron, words, full_disk(largest))
    if answer["exit_code"] not in (0, 4, 5):
        assert answer["exit_code"] in (2, 7)
        assert "\n" not in answer["error"]["message"]
        assert "cannot" in answer["error"]["message"]
        assert run_here(world.folder, spectron, words)["exit_code"] in (0, 4, 5)


def test_a_review_that_cannot_be_written_is_named(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    def refuse(seen: Seen) -> Fault:
        return "400" if b"thing number" in seen.body else "none"

    write_raw(tmp_path / "get_all.json", [memory(1, user)])
    review = tmp_path / ".spectron-migrate" / "review"
    review.mkdir(parents=True)
    with misbehaving(spectron.base_url, refuse) as proxy, read_only(review):
        answer = run_in(tmp_path, spectron, ["replay", "--dump", "get_all.json"], endpoint=proxy.base_url)
    assert 2 == answer["exit_code"]
    assert ".spectron-migrate/review" in answer["error"]["message"]
