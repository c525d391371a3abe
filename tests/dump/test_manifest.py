"""What the manifest says, and how damage to it is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.manifest import Manifest
from spectron_migrate.errors import InputError
from spectron_migrate.records import Skipped
from tests.support.dumping import memory, scan


def test_the_manifest_counts_memories_owners_and_skipped_rows(tmp_path: Path) -> None:
    changes = scan(
        tmp_path / "dump",
        [
            memory("m1"),
            memory("m2", agent_id="bot", run_id="r1"),
            memory("m3", user="bob"),
            Skipped("m4", "no text field"),
            Skipped("", "no id"),
            Skipped("m5", "unreadable row: UnpicklingError"),
        ],
    )

    manifest = changes.manifest
    assert {"alice": 2, "bob": 1} == manifest.users
    assert 3 == manifest.memories
    assert 1 == manifest.agents
    assert 1 == manifest.runs
    assert {"no id": 1, "no text field": 1, "unreadable row": 1} == manifest.skipped
    assert 3 == len(open_dump(tmp_path / "dump").skipped)
    assert manifest == Manifest.from_json(json.loads(json.dumps(manifest.to_json())))


def test_the_digest_changes_with_every_change_and_only_then(tmp_path: Path) -> None:
    first = scan(tmp_path / "a", [memory("m1")]).manifest
    assert first.digest == scan(tmp_path / "b", [memory("m1")]).manifest.digest
    assert first.digest != scan(tmp_path / "c", [memory("m1", "rum")]).manifest.digest
    assert first.digest != scan(tmp_path / "d", [memory("m1")], complete=False).manifest.digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is truncated or is not a dump manifest"),
        (lambda text: "[]", "is truncated or is not a dump manifest"),
        (lambda text: text.replace('"complete": false', '"complete": true'), "was altered: its digest does not match"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9, this tool reads format 1"),
    ],
)
def test_a_manifest_that_was_cut_off_or_altered_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")], complete=False)
    file = path / "manifest.json"
    file.write_text(damage(file.read_text()))

    with pytest.raises(InputError) as error:
        open_dump(path)

    assert f"{file} {message}" == error.value.message
