"""`late_writes.json`: the result of the last reading of Mem0 after `cutover complete`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.records import Json
from spectron_migrate.state.store import StateStore, read_object, write_object

FILE = "late_writes.json"


@dataclass(frozen=True, slots=True)
class LateWrites:
    """Memories in Mem0 that are newer than Spectron, as of one complete reading."""

    at: str
    """When the reading ended."""
    memories: int
    """How many memories Mem0 held."""
    count: int
    """How many of them are new or changed, and not in Spectron."""
    ids: tuple[str, ...] = ()
    """The ids of the first of these."""
    gone: int = 0
    """How many memories Mem0 no longer has. They stay in Spectron."""

    def to_json(self) -> dict[str, Json]:
        """The form in the file, and in the JSON of commands."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "ids": list(self.ids)}


def last_late_writes(state: Path | StateStore) -> LateWrites | None:
    """What the last reading found; None if there was none since `complete`, or its file cannot be read."""
    found = read_object(state, FILE)
    try:
        return None if found is None else LateWrites(**{**found, "ids": tuple(found["ids"])})
    except (KeyError, TypeError):
        return None


def keep_late_writes(state: Path | StateStore, late: LateWrites) -> None:
    """Record what a reading found."""
    write_object(state, FILE, late.to_json())
