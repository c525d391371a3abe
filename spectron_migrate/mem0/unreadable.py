"""Counts fields of memories that hold something unreadable, which is different from holding nothing."""

from __future__ import annotations

import json
from collections import Counter

from spectron_migrate.records import Json, Memory, counted

_FIELDS = ("created_at", "updated_at", "expiration_date", "categories", "metadata", "state", "lifecycle_state")
_LONGEST = 60


class UnreadableFields:
    """For each field: in how many memories it is unreadable, and the first of these with its value."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, memory: Memory) -> None:
        """Count the values of a memory that were kept as given because they were not read exactly."""
        given = memory.extra.get("as_given")
        if not isinstance(given, dict):
            return
        for name in _FIELDS:
            value = given.get(name)
            if value not in (None, "", [], {}) and not _was_read(memory, name) and not _is_no_time(value):
                self._counts[name] += 1
                self._first.setdefault(name, f"memory {memory.id} has {_shown(value)}")

    def notes(self) -> list[str]:
        """One sentence for each field."""
        return [
            f"`{name}` of {counted(rows, 'memory')} is not {_MEANING.get(name, 'a time')}: {self._first[name]}"
            for name, rows in self._counts.items()
        ]


_MEANING = {
    "categories": "a list of names",
    "metadata": "an object",
    "state": "a state",
    "lifecycle_state": "a state",
}


def _was_read(memory: Memory, name: str) -> bool:
    """Whether the value was understood, although an assumption was needed.

    A state is kept only if it was not understood.
    """
    return name not in ("state", "lifecycle_state") and bool(getattr(memory, name))


def _is_no_time(value: Json) -> bool:
    """The year 1, which some languages write for a missing time."""
    return isinstance(value, str) and value.startswith("0001-")


def _shown(value: Json) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
