"""Reading a dump: damage is noticed, and an export beside it does not disturb."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump, read_manifest
from spectron_migrate.dump.manifest import MEMORIES
from spectron_migrate.errors import InputError
from tests.support.dumping import SOURCE, memory, scan


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    rows = [
        memory("m1", "a\x00\x1b\u2028\n", metadata={"k": [1, {"é": None}]}, categories=("a", "b"), state="expired"),
        memory("\ud800 half", "\udfff", user=None, agent_id="\ud800", extra={"as_given": {"user_id": 4}}),
    ]

    scan(tmp_path / "dump", list(rows))

    dump = open_dump(tmp_path / "dump")
    assert rows == list(dump.memories())
    assert 2 == dump.count
    assert dump.source == SOURCE
    assert dump.complete
    assert dump.whole
    assert not dump.raw
    assert "2026-01-01T00:00:00.000000Z" == dump.began


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "is truncated"),
        (lambda data: b"", "is truncated"),
        (lambda data: data.replace(b"tea", b"rum"), "was altered"),
        (lambda data: data + b"{}\n", "was altered"),
    ],
)
def test_a_dump_that_was_cut_off_or_altered_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    file = path / MEMORIES
    file.write_bytes(damage(file.read_bytes()))

    with pytest.raises(InputError) as error:
        open_dump(path)

    assert f"{file} {message}: it is not the file its manifest describes" == error.value.message
    assert error.value.hint


def test_a_missing_file_or_dump_is_reported(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])
    (tmp_path / "dump" / MEMORIES).unlink()

    with pytest.raises(InputError, match="is missing from the dump"):
        open_dump(tmp_path / "dump")
    with pytest.raises(InputError, match="there is no dump in"):
        open_dump(tmp_path / "nowhere")
    assert read_manifest(tmp_path / "nowhere") is None


def test_an_open_dump_stays_the_same_while_an_export_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    dump = open_dump(path)
    scan(path, [memory("m2")], day=1)

    assert ["m1"] == [row.id for row in dump.memories()] == [row.id for row in dump.memories()]
    assert ["m2"] == [row.id for row in open_dump(path).memories()]


def test_a_file_changed_after_it_was_opened_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1")])
    dump = open_dump(path)
    with (path / MEMORIES).open("ab") as file:
        file.write(b"{}\n")

    with pytest.raises(InputError, match="changed after it was opened"):
        list(dump.memories())


def test_opening_beside_an_export_gives_one_dump_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m0")])
    ended = threading.Event()

    def export() -> None:
        for day in range(1, 25):
            scan(path, [memory(f"m{day}")], day=day)
        ended.set()

    writing = threading.Thread(target=export)
    writing.start()
    seen = []
    while not ended.is_set():
        with open_dump(path) as dump:
            seen += [row.id for row in dump.memories()]
    writing.join()
    assert sorted(seen, key=lambda each: int(each[1:])) == seen
