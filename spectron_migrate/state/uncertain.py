"""`uncertainties.json`: what Spectron was unsure about when it was last asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spectron_migrate.records import Json, counted
from spectron_migrate.state.store import StateStore, read_object, write_object

FILE = "uncertainties.json"


@dataclass(frozen=True, slots=True)
class Uncertainties:
    """Open uncertainties of Spectron about the memories of a migration. This tool never resolves any."""

    at: str
    known: bool
    """Whether the server lists what it is unsure about (from API 0.3.0 on)."""
    why: str = ""
    """Why this could not be found out; else empty."""
    count: int = 0
    unlabelled: int = 0
    """Further uncertainties in our scopes, for which no label names the memory."""
    by_user: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, Json] | None = None
    """The newest one: `id`, `about`, `reason`, `memory`, `text`, and `others`, the memories with the current value."""

    def to_json(self, *, texts: bool = True) -> dict[str, Json]:
        """The form in the file or, without `texts`, in the JSON of commands."""
        first = dict(self.first) if self.first is not None else None
        if first is not None and not texts:
            first = {
                "about": first["about"],
                "memory": first["memory"],
                "others": [row["memory"] for row in first["others"]],
            }
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "by_user": dict(self.by_user), "first": first}

    def sentence(self) -> str:
        """One sentence: how many there are, and for which users."""
        if not self.known:
            return f"cannot be known: {self.why}"
        more = f"; {self.unlabelled:,} more in these scopes, without a label" if self.unlabelled else ""
        if not self.count:
            return f"none{more}"
        named = sorted(self.by_user.items(), key=lambda each: (-each[1], each[0]))
        users = ", ".join(f"{user} {count:,}" for user, count in named[:3])
        others = f" and {counted(len(named) - 3, 'more user')}" if len(named) > 3 else ""
        return f"{self.count:,}: {users}{others}{more}"


def last_uncertainties(state: Path | StateStore) -> Uncertainties | None:
    """The last result; None if there is none, or the file cannot be read."""
    found = read_object(state, FILE)
    try:
        return None if found is None else Uncertainties(**found)
    except TypeError:
        return None


def keep_uncertainties(state: Path | StateStore, found: Uncertainties) -> None:
    """Record the result."""
    write_object(state, FILE, found.to_json())
