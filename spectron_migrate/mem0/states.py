"""The state that Mem0 gives a row, by the name of the state or by marks such as `deleted_at`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Json, State, is_time

_STATES: dict[str, State] = {
    "active": "active",
    "paused": "archived",  # OpenMemory keeps a paused memory but does not show it
    "archived": "archived",
    "deleted": "deleted",
    "expired": "expired",
    "replaced": "replaced",
    "superseded": "replaced",
}
_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")
_FLAGS: dict[State, tuple[str, ...]] = {
    "deleted": ("is_deleted", "deleted"),
    "archived": ("is_archived", "archived"),
    "expired": ("is_expired", "expired"),
}
_SHOWN = ("is_active", "active")
_TIMES: dict[State, str] = {"deleted": "deleted_at", "archived": "archived_at"}
_NAMES = frozenset(
    (
        *("state", "lifecycle_state", "status", "event", "replaced_by", "superseded_by", *_SHOWN, *_TIMES.values()),
        *(name for names in _FLAGS.values() for name in names),
    )
)
"""All fields that say something about the state."""

_DELETIONS = ("delete", "deleted")
"""Last words of the events that end a memory: `DELETE`, `memory_delete`, `memory:deleted`."""

_ORDER: tuple[State, ...] = ("deleted", "archived", "replaced", "expired")


def state_of(row: Mapping[str, Json], raw: dict[str, Json]) -> State | None:
    """The state of a row; None if Mem0 shows it.

    A value that is not understood goes into `raw` as it was given. A named state decides. Marks (`deleted_at`,
    `replaced_by`) may be left from an earlier state, and count only without a named state.
    """
    if _NAMES.isdisjoint(row):
        return None
    states: set[State] = set()
    for name in ("state", "lifecycle_state", "status"):
        given = row.get(name)
        known = _STATES.get(_word(given))
        if known is not None:
            states.add(known)
        elif given not in (None, "") and name != "status":  # other programs use the word for other things
            raw[name] = given
    if not states:
        states.update(_marks(row))
    return next((state for state in _ORDER if state in states), None)


def _marks(row: Mapping[str, Json]) -> set[State]:
    found: set[State] = {
        state for state, names in _FLAGS.items() if any(_word(row.get(name)) in _TRUE for name in names)
    }
    found |= {state for state, name in _TIMES.items() if _is_moment(row.get(name))}
    if re.split(r"[_:.\s]", _word(row.get("event")))[-1] in _DELETIONS:
        found.add("deleted")
    if any(_word(row.get(name)) in _FALSE for name in _SHOWN):
        found.add("archived")
    if row.get("replaced_by") or row.get("superseded_by"):
        found.add("replaced")
    return found


def _word(value: Any) -> str:
    """A value as one word in small letters: `MemoryState.deleted`, `{"value": "deleted"}` and 1 as well."""
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    return str(value).strip().lower().rpartition(".")[2] if isinstance(value, str | int | float) else ""


def _is_moment(value: Any) -> bool:
    """Whether a mark holds anything other than a placeholder for a missing time."""
    if _word(value) in ("", "null", "none", *_FALSE):
        return isinstance(value, Mapping) and bool(value)
    moment, _ = utc_time(value)
    return moment is None or is_time(moment)
