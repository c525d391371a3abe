"""The shared types: spelling of times, order, digests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.records import Memory, canonical_json, digest, format_time, order_key, parse_time, same_text

pytestmark = pytest.mark.slow

MOMENTS = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 28)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
SCANNED = "2026-11-22T10:00:00.000000Z"


@given(MOMENTS, MOMENTS)
def test_times_sort_as_text_like_they_sort_in_time(left: datetime, right: datetime) -> None:
    assert (left < right) == (format_time(left) < format_time(right))


@given(MOMENTS, st.integers(-12, 12))
def test_a_time_keeps_its_moment_whatever_the_zone(moment: datetime, hours: int) -> None:
    there = moment.astimezone(timezone(timedelta(hours=hours)))
    assert moment == parse_time(format_time(there))


@given(st.lists(st.text()), st.lists(st.text()))
def test_parts_of_a_digest_do_not_run_into_each_other(left: list[str], right: list[str]) -> None:
    assert (left == right) == (digest(*left) == digest(*right))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: object) -> None:
    def turned(item: object) -> object:
        if isinstance(item, dict):
            return {key: turned(item[key]) for key in reversed(list(item))}
        return [turned(each) for each in item] if isinstance(item, list) else item

    assert canonical_json(value) == canonical_json(turned(value))


def memory(**fields: object) -> Memory:
    return Memory(**{"id": "m", "memory": "text", "created_at": "2025-01-01T00:00:00.000000Z", **fields})  # type: ignore[arg-type]


def test_a_memory_survives_its_line_in_the_dump() -> None:
    original = memory(categories=("a", "b"), metadata={"deep": {"er": [1]}}, extra={"unknown": None})
    assert original == Memory.from_json(original.to_json())


def test_each_field_of_a_line_is_that_field_of_the_memory() -> None:
    line = {name: (name,) if name == "categories" else name for name in memory().to_json()}
    found = Memory.from_json(line)

    assert line == {name: getattr(found, name) for name in line}
    with pytest.raises(TypeError, match="unexpected"):
        Memory.from_json({("other" if name == "role" else name): value for name, value in line.items()})


def test_order_is_by_the_time_of_the_text_then_by_creation_then_by_history() -> None:
    early = memory(id="z", text_at="2025-01-01T00:00:00.000000Z")
    late = memory(id="a", text_at="2025-06-01T00:00:00.000000Z")
    tied = memory(id="a", text_at="2025-06-01T00:00:00.000000Z", history_row=7)
    assert [early, late, tied] == sorted([tied, late, early], key=lambda each: order_key(each, SCANNED))


def test_a_memory_without_a_time_comes_first() -> None:
    for nothing in (None, "1970-01-01T00:00:00.000000Z"):
        timeless = memory(text_at=nothing)
        oldest = memory(text_at="1971-01-01T00:00:00.000000Z")
        assert order_key(timeless, SCANNED) < order_key(oldest, SCANNED)


def test_a_time_in_the_future_counts_as_the_start_of_the_scan() -> None:
    future = memory(id="a", text_at="2999-01-01T00:00:00.000000Z")
    read_now = memory(id="b", text_at=SCANNED)
    assert order_key(future, SCANNED) < order_key(read_now, SCANNED)


def test_texts_are_the_same_after_normalising_and_trimming_only() -> None:
    assert same_text("café ", "café")
    assert not same_text("Cafe", "cafe")
