"""The mapping's `text_at` chooses the time of a text; an import at one moment says nothing about the texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.dump.import_signs import ImportSigns
from spectron_migrate.mapping.text_times import TextAt, with_text_at
from spectron_migrate.records import Memory, TextAtSource, is_time

CREATED, UPDATED, CHANGED = (f"202{year}-03-01T00:00:00.000000Z" for year in (3, 4, 5))
GUESSED = Memory("m1", "tea", created_at=CREATED, updated_at=UPDATED, text_at=UPDATED, text_at_source="updated_at")
KNOWN = replace(GUESSED, text_at=CHANGED, text_at_source="history", history_row=3)


@pytest.mark.parametrize(
    ("memory", "setting", "imported", "expected"),
    [
        (GUESSED, "auto", False, UPDATED),
        (GUESSED, "auto", True, CREATED),
        (GUESSED, "history", False, CREATED),
        (GUESSED, "created_at", False, CREATED),
        (GUESSED, "updated_at", True, UPDATED),
        (KNOWN, "auto", True, CHANGED),
        (KNOWN, "history", False, CHANGED),
        (KNOWN, "created_at", False, CREATED),
        (replace(GUESSED, created_at=None), "created_at", False, UPDATED),
        (replace(GUESSED, created_at="1970-01-01T00:00:00.000000Z"), "auto", True, UPDATED),
        (Memory("m1", "tea"), "created_at", True, None),
    ],
)
def test_the_setting_chooses_the_time(memory: Memory, setting: TextAt, imported: bool, expected: str | None) -> None:
    assert expected == with_text_at(memory, setting, imported=imported).text_at


def created(day: int) -> str:
    return f"20{20 + day // 300}-{1 + day // 28 % 10:02}-{1 + day % 28:02}T00:00:00.000000Z"


def signs(*times: tuple[str | None, str | None]) -> bool:
    found = ImportSigns()
    found.add(times)
    return found.is_import


@given(st.lists(st.integers(0, 1200), min_size=1), st.lists(st.integers(0, 59), min_size=2, max_size=20))
def test_an_import_within_minutes_of_memories_of_years_is_known(days: list[int], minutes: list[int]) -> None:
    times = [created(0), created(1200), *map(created, days)]
    rows = [(time, f"2026-11-06T10:{minutes[at % len(minutes)]:02}:00.000000Z") for at, time in enumerate(times)]

    assert signs(*rows)
    assert not signs(*rows, (created(5), "2026-01-01T00:00:00.000000Z"))


MOMENTS = st.sampled_from([CREATED, UPDATED, CHANGED, "1970-01-01T00:00:00.000000Z", None])
SETTINGS: list[TextAt] = ["auto", "history", "updated_at", "created_at"]


@given(MOMENTS, MOMENTS, st.sampled_from([CHANGED, None]), st.sampled_from(SETTINGS), st.booleans())
def test_the_time_of_a_text_is_the_one_that_the_setting_names_or_the_best_there_is(
    created_at: str | None, updated_at: str | None, of_history: str | None, setting: TextAt, imported: bool
) -> None:
    later = max((time for time in (created_at, updated_at) if time is not None), default=None)
    source: TextAtSource = "created_at" if later == created_at else "updated_at"
    memory = Memory("m1", "tea", created_at=created_at, updated_at=updated_at, text_at=later, text_at_source=source)
    if of_history is not None:
        memory = replace(memory, text_at=of_history, text_at_source="history", history_row=3)
    chosen = with_text_at(memory, setting, imported=imported).text_at

    times = {"created_at": created_at, "updated_at": updated_at, "history": of_history}
    known = {name: time for name, time in times.items() if time is not None and is_time(time)}
    wanted = {
        "created_at": ["created_at", "updated_at"],
        "updated_at": ["updated_at", "created_at"],
        "history": ["history", "created_at", "updated_at"],
        "auto": ["history", *(["created_at", "updated_at"] if imported else [])],
    }[setting]
    expected = next((known[name] for name in wanted if name in known), None)
    if expected is None and setting == "auto":
        expected = max((known[name] for name in ("created_at", "updated_at") if name in known), default=None)
    assert (expected or memory.text_at) == chosen


def test_edits_of_few_memories_are_no_import() -> None:
    unchanged = [(created(day), created(day)) for day in range(20)]

    assert not signs((created(0), UPDATED), (created(600), UPDATED), *unchanged)
    assert not signs((created(0), UPDATED), (created(3), UPDATED))
    assert not signs()
