"""Merging a scan with the dump that was there before: tombstones, owners, completeness, copies of an id."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.manifest import DELETED
from spectron_migrate.errors import InputError
from spectron_migrate.records import Filters, Skipped, SourceInfo
from tests.support.dumping import memory, scan, texts

ALICE = Filters(users=frozenset({"alice"}))


def test_a_second_scan_reports_new_changed_and_deleted_memories(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory(name) for name in ("same", "text", "metadata", "gone")])

    changes = scan(
        path, [memory("same"), memory("text", "likes coffee"), memory("metadata", role="user"), memory("new")], day=1
    )

    assert 1 == changes.new
    assert 1 == changes.changed_text
    assert 1 == changes.changed_otherwise
    assert 1 == changes.deleted
    dump = open_dump(path)
    assert {"same", "text", "metadata", "new"} == set(texts(dump))
    assert {"gone"} == set(dump.tombstones)
    assert "2026-01-02T00:00:00.000000Z" == dump.tombstones["gone"].first_missed
    assert ["gone"] == [row["id"] for _, row in dump.raw_lines(DELETED)]


@pytest.mark.parametrize("seed", range(3))
def test_changes_are_counted_in_whatever_order_the_rows_come(tmp_path: Path, seed: int) -> None:
    """More rows than are compared at once, most of them as before and near where they were."""
    chosen = random.Random(seed)
    names = [f"m{number}" for number in range(1700)]
    kinds = dict(zip(names, chosen.choices(["same", "text", "role", "gone"], [90, 3, 3, 4], k=len(names)), strict=True))
    changed = {"same": {}, "text": {"text": "likes coffee"}, "role": {"role": "user"}}
    rows = [memory(name, **changed[kind]) for name, kind in kinds.items() if kind != "gone"]
    rows += [memory(f"new{number}") for number in range(7)]
    for _ in range(chosen.choice([0, 5, 2000])):
        rows.insert(chosen.randrange(len(rows)), rows.pop(chosen.randrange(len(rows))))
    path = tmp_path / "dump"
    scan(path, [memory(name) for name in names])

    changes = scan(path, rows, day=1)

    counts = {kind: list(kinds.values()).count(kind) for kind in ("text", "role", "gone")}
    assert counts == {
        "text": changes.changed_text,
        "role": changes.changed_otherwise,
        "gone": changes.deleted,
    }
    assert 7 == changes.new
    expected = {name for name, kind in kinds.items() if kind in ("text", "gone")} | {f"new{n}" for n in range(7)}
    assert expected == changes.differing
    assert {row.id: row.memory for row in rows} == texts(open_dump(path))


def test_a_tombstone_stays_as_it_was_set_until_the_memory_returns(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])
    first = scan(path, [memory("m1")], day=1).manifest.tombstones
    assert first == scan(path, [memory("m1")], day=2).manifest.tombstones

    changes = scan(path, [memory("m1"), memory("m2")], day=3)

    assert ("m2",) == changes.manifest.returned
    assert {} == changes.manifest.tombstones
    assert 0 == changes.new
    assert () == scan(path, [memory("m1"), memory("m2")], day=4).manifest.returned


@pytest.mark.parametrize(
    "options",
    [{"complete": False}, {"since": "2025-06-01T00:00:00.000000Z"}, {"filters": Filters(users=frozenset({"bob"}))}],
)
def test_no_tombstone_without_a_scan_that_was_complete_for_the_owner(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [], day=1, **options)

    assert {} == changes.manifest.tombstones
    assert {"m1", "m2"} == set(texts(open_dump(path)))


def test_raw_files_never_set_a_tombstone(tmp_path: Path) -> None:
    files = SourceInfo("files", "files")
    scan(tmp_path / "dump", [memory("m1"), memory("m2")], source=files)

    assert {} == scan(tmp_path / "dump", [memory("m1")], source=files, day=1).manifest.tombstones


def test_a_filtered_scan_changes_only_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("a1"), memory("a2"), memory("b1", user="bob")])

    changes = scan(path, [memory("a1", "likes coffee"), memory("b1", "other", user="bob")], day=1, filters=ALICE)

    assert {"a1": "likes coffee", "b1": "likes tea"} == texts(open_dump(path))
    assert {"a2"} == set(changes.manifest.tombstones)
    assert 1 == changes.manifest.filtered
    assert {"users": ["alice"]} == changes.manifest.filters
    assert changes.manifest.whole


def test_a_memory_that_changed_owner_is_updated_by_a_scan_of_its_old_owner(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [memory("m1"), memory("m2", user="bob")], day=1, filters=ALICE)

    assert {} == changes.manifest.tombstones
    assert {"alice": 1, "bob": 1} == changes.manifest.users


def test_a_row_that_became_unreadable_is_not_taken_for_deleted(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("m1"), memory("m2")])

    changes = scan(path, [memory("m1"), Skipped("m2", "no text field")], day=1)

    assert {} == changes.manifest.tombstones
    assert {"m1", "m2"} == set(texts(open_dump(path)))


def test_a_dump_is_only_as_fresh_as_its_oldest_rows(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    scan(path, [memory("a1"), memory("b1", user="bob")])
    narrow = scan(path, [memory("a1")], day=1, filters=ALICE).manifest
    assert "2026-01-01T00:00:00.000000Z" == narrow.began
    assert "2026-01-02T00:00:00.000000Z" == narrow.scan_began

    whole = scan(path, [memory("a1"), memory("b1", user="bob")], day=2).manifest

    assert "2026-01-03T00:00:00.000000Z" == whole.began


def test_a_dump_is_complete_only_if_each_scan_it_holds_rows_of_was(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    assert not scan(path, [memory("a1"), memory("b1", user="bob")], complete=False).manifest.complete
    assert not scan(path, [memory("a1")], day=1, filters=ALICE).manifest.complete
    assert scan(path, [memory("a1"), memory("b1", user="bob")], day=2).manifest.complete


def test_only_a_scan_without_filters_makes_a_dump_whole(tmp_path: Path) -> None:
    assert not scan(tmp_path / "dump", [memory("a1")], filters=ALICE).manifest.whole
    assert scan(tmp_path / "dump", [memory("a1")], day=1).manifest.whole


def test_the_dump_of_another_source_is_refused(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])

    with pytest.raises(InputError) as error:
        scan(tmp_path / "dump", [], source=SourceInfo("oss", "qdrant:/other:mem0"), day=1)

    assert "holds a dump of another source (oss:qdrant:/store:mem0)" in error.value.message
    assert {"m1": "likes tea"} == texts(open_dump(tmp_path / "dump"))


def test_a_scan_leaves_files_of_other_steps_alone(tmp_path: Path) -> None:
    scan(tmp_path / "dump", [memory("m1")])
    (tmp_path / "dump" / "plan.json").write_text("{}")

    scan(tmp_path / "dump", [memory("m1")], day=1)

    assert "{}" == (tmp_path / "dump" / "plan.json").read_text()
