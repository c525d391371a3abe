"""A state by its name decides; marks count where no state is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.mem0.states import state_of
from spectron_migrate.records import State

AT = "2025-07-01T10:00:00Z"
NAMED: dict[str, State | None] = {
    **{"active": None, "paused": "archived", "archived": "archived", "deleted": "deleted", "replaced": "replaced"},
}
MARKS: list[tuple[dict[str, Any], State]] = [
    ({"deleted_at": AT}, "deleted"),
    ({"deleted_at": {"$date": AT}}, "deleted"),
    ({"is_deleted": True}, "deleted"),
    ({"is_deleted": 1}, "deleted"),
    ({"deleted": "true"}, "deleted"),
    *(({"event": one}, "deleted") for one in ("DELETE", "memory_delete", "memory:delete", "memory.deleted")),
    ({"archived_at": AT}, "archived"),
    ({"is_archived": True}, "archived"),
    ({"is_active": False}, "archived"),
    ({"active": 0}, "archived"),
    ({"replaced_by": "m2"}, "replaced"),
    ({"superseded_by": "m2"}, "replaced"),
    ({"expired": True}, "expired"),
]
NO_MARKS: list[dict[str, Any]] = [
    *({"deleted_at": value} for value in (None, "", "null", False, 0, "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z")),
    *({"is_deleted": value} for value in (None, False, 0, "false", "0", "")),
    *({"is_active": value} for value in (None, True, 1, "true")),
    *({"event": value} for value in ("ADD", "UPDATE", "NONE", None, "memory_add", "undelete")),
    {"replaced_by": None},
    {"status": "SUCCEEDED"},
]


@pytest.mark.parametrize(("marks", "state"), MARKS, ids=str)
def test_a_mark_gives_the_state_where_none_is_named(marks: dict[str, Any], state: State) -> None:
    assert state == state_of(marks, {})
    assert state == state_of({**marks, "state": None}, {})


@pytest.mark.parametrize("marks", NO_MARKS, ids=str)
def test_an_empty_mark_is_none(marks: dict[str, Any]) -> None:
    raw: dict[str, Any] = {}
    assert state_of(marks, raw) is None
    assert {} == raw


@given(
    st.sampled_from(sorted(NAMED)),
    st.sampled_from(["state", "lifecycle_state", "status"]),
    st.sampled_from(["{}", " {} ", "MemoryState.{}"]),
    st.booleans(),
    st.lists(st.sampled_from([marks for marks, _ in MARKS]), max_size=4),
)
def test_a_named_state_decides_whatever_marks_are_beside_it(
    named: str, field: str, spelling: str, in_capitals: bool, marks: list[dict[str, Any]]
) -> None:
    value = spelling.format(named.upper() if in_capitals else named)
    row = {name: one for each in marks for name, one in each.items()} | {field: value}
    assert NAMED[named] == state_of(row, {})


@pytest.mark.parametrize("given", ["something new", 7, ["deleted"], {"a": 1, "b": 2}])
def test_a_state_that_is_not_known_is_kept_as_it_was_given(given: Any) -> None:
    raw: dict[str, Any] = {}
    assert state_of({"state": given}, raw) is None
    assert {"state": given} == raw
