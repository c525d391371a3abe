"""A memory counts once, however often it is read, in memory and on disk alike."""

from __future__ import annotations

from contextlib import closing
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.mem0 import seen_ids
from spectron_migrate.mem0.seen_ids import SeenMemories
from tests.support.dumping import memory
from tests.support.examples import examples

ROWS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["dana", "emil"])), max_size=60)


@settings(max_examples=examples(60), deadline=None)
@given(ROWS, st.integers(1, 9), st.sampled_from([0, 5, 1000]))
def test_a_memory_counts_once_for_its_owner(rows: list[tuple[int, str]], batch: int, most: int) -> None:
    first = {f"m{number}": user for number, user in reversed(rows)}
    found = [memory(f"m{number}", user=user) for number, user in rows]
    with (
        mock.patch.object(seen_ids, "_MOST_HASHES", most),
        mock.patch.object(seen_ids, "_MOST_IN_MEMORY", most),
        closing(SeenMemories()) as seen,
    ):
        for begin in range(0, len(found), batch):
            seen.add([*{one.id: one for one in reversed(found[begin : begin + batch])}.values()])
        assert len(first) == seen.count()
        assert ["other"] == seen.not_seen([*first, "other"])
        for size in range(1, 41):
            users = sorted(user for user in ("dana", "emil") if size == list(first.values()).count(user))
            assert [("user", user, size) for user in users] == seen.owners_with([size])


@pytest.mark.parametrize("most", [0, 1000])
def test_a_memory_that_comes_twice_in_one_batch_counts_once(most: int) -> None:
    with mock.patch.object(seen_ids, "_MOST_HASHES", most), closing(SeenMemories()) as seen:
        seen.add([memory("m1"), memory("m1")])
        assert 1 == seen.count()
