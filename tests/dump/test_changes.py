"""Files of changes: what a round laid over a dump is in it for every reader, once and unaltered."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump, read_manifest
from spectron_migrate.dump.writer import DumpWriter
from spectron_migrate.errors import InputError
from tests.support.dumping import SOURCE, START, begin_changes, lay, memory, scan, texts


def test_every_reader_sees_what_was_laid_over(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a"), memory("b", user="bob"), memory("c")])
    first = changes.manifest
    laid = lay(changes, 1, memory("b", "likes rum", user="carol"), memory("d"), gone=("a",))
    assert laid is not None
    assert (1, 1, 1) == (laid.new, laid.changed_text, laid.deleted)
    with open_dump(tmp_path) as dump:
        assert {"b": "likes rum", "c": "likes tea", "d": "likes tea"} == texts(dump)
        assert (3, {"alice": 2, "carol": 1}) == (dump.count, dump.manifest.users)
        assert {"a"} == dump.tombstones.keys()
        assert (first.digest, 2) == (dump.manifest.previous, dump.manifest.generation)
        assert ["a"] == [row["id"] for _, row in dump.raw_lines("deleted.jsonl")]
    lay(changes, 2, memory("a", "is back"), gone=("d",))
    with open_dump(tmp_path) as dump:
        assert {"a": "is back", "b": "likes rum", "c": "likes tea"} == texts(dump)
        assert ({"d"}, {"a"}) == (dump.tombstones.keys(), dump.manifest.returned_at.keys())


def test_nothing_is_written_for_rows_that_are_as_they_were(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    laid = lay(changes, 1, memory("a"))
    assert laid is not None
    assert {} == laid.changed
    assert [] == list(tmp_path.glob("changes-*"))


def test_the_next_whole_reading_folds_them_in(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a"), memory("b")])
    lay(changes, 1, memory("a", "likes rum"), gone=("b",))
    before = changes.manifest
    update = scan(tmp_path, [memory("a", "likes rum"), memory("c")], day=2)
    assert (1, 0, 0) == (update.new, update.changed_text, update.deleted)
    assert (before.digest, {"b"}) == (update.manifest.previous, update.manifest.tombstones.keys())
    assert [] == list(tmp_path.glob("changes-*"))
    assert lay(changes, 3, memory("a")) is None, "the dump is another one now"


def test_a_file_that_belongs_to_an_older_dump_counts_for_nothing(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    lay(changes, 1, memory("a", "likes rum"))
    left = next(tmp_path.glob("changes-*"))
    data = left.read_bytes()
    update = scan(tmp_path, [memory("a", "likes gin")], day=2)
    left.with_name("changes-000004.jsonl").write_bytes(data)
    assert update.manifest.digest == read_manifest(tmp_path).digest  # type: ignore[union-attr]
    with open_dump(tmp_path) as dump:
        assert {"a": "likes gin"} == texts(dump)


@pytest.mark.parametrize("damage", [lambda d: d[:-10], lambda d: d.replace(b"rum", b"gin"), lambda d: d[5:]])
def test_one_that_was_cut_off_or_altered_is_refused(tmp_path: Path, damage: Any) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    lay(changes, 1, memory("a", "likes rum"))
    file = next(tmp_path.glob("changes-*"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match="is truncated or holds no changes"):
        open_dump(tmp_path)


@pytest.mark.parametrize("lost", ["000002", "000003", "000004"], ids=["first", "middle", "last"])
def test_one_that_is_lost_is_missed(tmp_path: Path, lost: str) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    for day in (1, 2, 3):
        lay(changes, day, memory("a", f"likes rum {day}"))
    (tmp_path / f"changes-{lost}.jsonl").unlink()
    with pytest.raises(InputError, match=rf"changes-{lost}\.jsonl is missing") as raised:
        open_dump(tmp_path)
    assert f"delete {tmp_path} and export again" in str(raised.value.hint)


def test_a_crash_before_the_newest_is_noted_loses_nothing(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    lay(changes, 1, memory("a", "likes rum"))
    newest = (tmp_path / ".newest").read_bytes()
    lay(changes, 2, memory("a", "likes gin"))
    (tmp_path / ".newest").write_bytes(newest)
    with open_dump(tmp_path) as dump:
        assert {"a": "likes gin"} == texts(dump)
    scan(tmp_path, [memory("a", "likes tea")], day=3)
    assert not (tmp_path / ".newest").exists()


@pytest.mark.parametrize("name", ["changes-000002.jsonl", ".newest"])
def test_a_full_disk_is_one_sentence_that_names_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = begin_changes(tmp_path, [memory("a")])

    def fail(handle: int) -> None:
        if any(file.name.startswith(f".{name}.") for file in tmp_path.iterdir()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError) as raised:
        lay(changes, 1, memory("a", "likes rum"))
    assert f"{tmp_path / name} cannot be written: No space left on device" == raised.value.message
    monkeypatch.undo()
    with open_dump(tmp_path) as dump:
        assert {"a": "likes tea" if name != ".newest" else "likes rum"} == texts(dump)


def test_lines_are_found_where_they_are_after_rows_that_came_twice(tmp_path: Path) -> None:
    changes = begin_changes(
        tmp_path, [memory("a"), memory("b"), memory("a", "again"), memory("c"), memory("b", "again")]
    )
    laid = lay(changes, 1, memory("c", "likes rum"), memory("a", "again"), gone=("b",))
    assert laid is not None
    assert {"c", "b"} == laid.changed.keys()
    with open_dump(tmp_path) as dump:
        assert {"a": "again", "c": "likes rum"} == texts(dump)


def test_a_dump_that_is_not_shown_to_be_whole_takes_no_changes(tmp_path: Path) -> None:
    with DumpWriter(tmp_path, SOURCE, START, rereads=True) as writer:
        writer.add(memory("a"))
        writer.commit(complete=None, native_count=None, ended=START)
        assert writer.begin_changes() is None


def test_what_is_kept_of_a_change_takes_little_more_room_than_its_line(tmp_path: Path) -> None:
    changes = begin_changes(tmp_path, [memory("a")])
    memories = [memory(f"m{number}") for number in range(200)]
    tracemalloc.start()
    try:
        lay(changes, 1, *memories)
        assert 2_000 * len(memories) > tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
