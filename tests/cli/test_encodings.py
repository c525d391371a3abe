"""A terminal that cannot show a memory's letters: each command prints replacements, never a traceback."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from rich.cells import cell_len

from spectron_migrate.cli.app import run
from spectron_migrate.local.testing import RunningServer
from tests.cli.support import environment_for
from tests.mem0.qdrant_points import key_of, point, uuid, write_store

pytestmark = pytest.mark.slow

TEXT = "茶 ☕ ż likes “tea” — 日本"
OWNER = "OWNER"
"""In a line: a user with such letters, whom no other test has."""
LINES = [
    ["--help"],
    [],
    ["nope☕"],
    ["init", "--config", "☕.yaml"],
    ["export"],
    ["doctor"],
    ["replay", "--user", "☕"],
    ["replay", "--dump", "☕.json"],
    ["replay", "--dry-run"],
    ["replay", "--preview", "2"],
    ["replay"],
    ["dual-verify", "--queries", "questions.jsonl", "--report", "r.html", "--report", "r.md"],
    ["status"],
    ["explain", OWNER],
    ["explain", uuid(1)],
    ["explain", "☕"],
    ["cutover", "start", "--reason", "☕"],
    ["replay", "--follow", "--max-seconds", "1"],
    ["cutover", "check"],
    ["cutover", "accept", "application", "--reason", "☕"],
    ["cutover", "shift", "100", "--user", OWNER],
    ["cutover", "revert"],
    ["cutover", "abort", "--yes"],
    ["erase", "--migration", "☕", "--scope", "user/ż"],
    ["status"],
]


@dataclass
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    said: str


def run_with(encoding: str, folder: Path, words: Sequence[str], environment: dict[str, str]) -> Ended:
    """A command on streams as `PYTHONIOENCODING` makes them."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    said = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    with (
        chdir(folder),
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch("sys.stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(said),
    ):
        code = run(words)
        out.flush()
        said.flush()
    return Ended(code, *(bytes(each.buffer.getvalue()).decode(encoding) for each in (out, said)))  # type: ignore[attr-defined]


@contextmanager
def world(folder: Path, server: RunningServer, owner: str) -> Iterator[dict[str, str]]:
    """A Mem0 with such memories, settings that name it, and the variables of a Spectron."""
    points = [(key_of(uuid(each)), point(uuid(each), data=f"{TEXT} {each}", user_id=owner)) for each in range(3)]
    points.append((key_of(uuid(9)), point(uuid(9), data=f"{TEXT} 9")))
    write_store(folder / "mem0", points)
    config = {"collection_name": "mem0", "path": str(folder / "mem0" / "store")}
    (folder / "mem0.json").write_text(json.dumps({"vector_store": {"provider": "qdrant", "config": config}}))
    (folder / "spectron-migrate.yaml").write_text(
        "version: 1\nmem0: {oss: {config: mem0.json}}\nmapping: mapping.yaml\ncutover: {settle: 1s, soak: 0s}\n"
    )
    (folder / "mapping.yaml").write_text(
        'version: 1\nunmapped: skip\nrules: [{when: {user_id: "*"}, scope: {user: "{user_id}"}}]\n'
    )
    (folder / "questions.jsonl").write_text(json.dumps({"query": f"{TEXT}?", "user_id": owner}) + "\n")
    yield {**environment_for(server), "COLUMNS": "100"}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_every_command_prints_replacements(encoding: str, spectron: RunningServer, user: str, tmp_path: Path) -> None:
    with world(tmp_path, spectron, f"茶-{user}") as environment:
        printed = {}
        for words in LINES:
            ended = run_with(encoding, tmp_path, [word.replace(OWNER, f"茶-{user}") for word in words], environment)
            assert 1 != ended.code, ended
            assert "Traceback" not in ended.said
            printed[" ".join(words)] = ended.out
            if words[0:1] in (["replay"], ["explain"], ["status"]) and "☕" not in "".join(words):
                assert 0 == ended.code, ended
    assert "?" in printed["explain " + uuid(1)]
    for line, text in printed.items():
        tables = [row for row in text.splitlines() if row.startswith(("|", "+"))]
        assert all(cell_len(row) <= 100 for row in tables), line


def test_a_replacement_is_as_wide_as_what_it_replaces(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    with world(tmp_path, spectron, f"茶-{user}") as environment:
        for words in (["export"], ["replay"]):
            run_with("utf-8", tmp_path, words, environment)
        shown = run_with("ascii", tmp_path, ["dual-verify", "--queries", "questions.jsonl"], environment).out
    [box] = [block for block in shown.split("\n\n") if "asks:" in block]
    rows = [len(row) for row in box.splitlines() if row.startswith(("|", "+"))]
    assert 1 == len(set(rows)), box
