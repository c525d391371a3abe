"""Of several rows of one id one is kept, in whatever order they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.dump import open_dump
from spectron_migrate.dump.copies import IDENTICAL, OLDER, OTHER, OTHER_OWNER, OTHER_TEXT
from spectron_migrate.records import Memory, SourceInfo
from tests.support.dumping import memory, scan, texts
from tests.support.examples import examples

ROW = st.builds(
    memory,
    st.sampled_from(["m1", "m2", "m3"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["alice", "bob"]),
    updated_at=st.sampled_from([None, "2025-02-01T00:00:00.000000Z", "2025-03-01T00:00:00.000000Z"]),
)


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(ROW, max_size=12), st.randoms())
def test_copies_in_files_are_merged_the_same_way_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Memory], random: Any
) -> None:
    files = SourceInfo("files", "files")
    path = tmp_path_factory.mktemp("merge")
    first = scan(path / "a", list(rows), source=files)
    shuffled = list(rows)
    random.shuffle(shuffled)
    second = scan(path / "b", list(shuffled), source=files)

    kept = {row.id: row for row in open_dump(path / "a").memories()}
    assert kept == {row.id: row for row in open_dump(path / "b").memories()}
    assert first.manifest.users == second.manifest.users
    for row in rows:
        assert (row.updated_at or row.created_at or "") <= (kept[row.id].updated_at or kept[row.id].created_at or "")
    assert len(rows) == len(kept) + sum(first.manifest.skipped.values())
    assert {IDENTICAL, OLDER, OTHER, OTHER_OWNER, OTHER_TEXT} >= set(first.manifest.skipped)


def test_a_row_read_twice_from_a_store_counts_once_with_its_last_content(tmp_path: Path) -> None:
    changes = scan(tmp_path / "dump", [memory("m1", "before"), memory("m2"), memory("m1", "after")])

    assert {"m1": "after", "m2": "likes tea"} == texts(open_dump(tmp_path / "dump"))
    assert {} == changes.manifest.skipped
    assert {"alice": 2} == changes.manifest.users


FILES = SourceInfo("files", "files")


def test_one_id_with_two_owners_is_content_left_out(tmp_path: Path) -> None:
    changes = scan(
        tmp_path / "dump", [memory("m1", "plays the oboe"), memory("m1", "has a canoe", "bob")], source=FILES
    )

    assert {OTHER_OWNER: 1} == changes.manifest.skipped


def test_of_copies_that_differ_in_creation_alone_the_earliest_stands(tmp_path: Path) -> None:
    times = ["2025-03-01T00:00:00.000000Z", "2024-03-01T00:00:00.000000Z", "2026-03-01T00:00:00.000000Z"]
    rows = [memory("m1", created_at=time, updated_at="2026-04-01T00:00:00.000000Z") for time in times]

    changes = scan(tmp_path / "dump", list(rows), source=FILES)

    assert [times[1]] == [row.created_at for row in open_dump(tmp_path / "dump").memories()]
    assert {IDENTICAL: 2} == changes.manifest.skipped


@pytest.mark.parametrize("owners", [{"user": "alice"}, {"user": "alice", "agent_id": "bot"}])
@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_copies_the_one_that_names_more_owners_is_kept(
    tmp_path: Path, owners: dict[str, str], is_first: bool
) -> None:
    """Otherwise a memory would lose its owner, or go to the scope of another one."""
    named = memory("m1", "a", **owners)
    unnamed = memory("m1", "a", user=None, agent_id=owners.get("agent_id"))
    scan(tmp_path / "dump", [named, unnamed] if is_first else [unnamed, named], source=FILES)

    [kept] = list(open_dump(tmp_path / "dump").memories())
    assert named == kept
