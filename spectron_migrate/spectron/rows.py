"""What the server lists and answers, as immutable values: scopes, sessions, turns, hits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from spectron_migrate.records import Hit, Selector, format_time

_SINCE_1970 = re.compile(r"\d{9,19}(?:\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ScopeNode:
    """A registered scope; `path` without outer slashes."""

    path: str
    tombstoned: bool


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session that the server opened; `selector` as the server echoed it, None if it did not."""

    id: str
    selector: Selector | None
    server_now: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One stored turn of a session."""

    id: str
    content: str
    seq: int
    role: str
    created_at: str

    def is_from_before(self, moment: str | None) -> bool:
        """Whether the server says that it stored the turn in an earlier second; `moment` by the server's clock."""
        stored = _moment(self.created_at)
        return stored is not None and moment is not None and format_time(stored) < moment


@dataclass(frozen=True, slots=True)
class Recall:
    """The answer to a query."""

    hits: tuple[Hit, ...]
    """Best first."""
    tier: str

    @property
    def formatted(self) -> str:
        """The hits for a prompt, one a line."""
        return "\n".join(f"- {' '.join(hit.text.split())}" for hit in self.hits)


def turns_of(rows: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The turns of a listing."""
    return [
        Turn(
            str(row["id"]),
            str(row.get("content") or ""),
            number,
            str(row.get("role") or ""),
            str(row.get("createdAt") or ""),
        )
        for row, number in zip(rows, _numbers(rows), strict=True)
    ]


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of the turns or, if any has none, their positions by time and then in the listing.

    A listing may begin with the newest turn.
    """
    numbers = [number for row in rows if (number := _number(row.get("seq"))) is not None]
    if len(set(numbers)) == len(rows):
        return numbers
    times = [moment for row in rows if (moment := _moment(str(row.get("createdAt") or ""))) is not None]
    places = list(range(len(rows)))
    if len(times) == len(rows):
        places.sort(key=lambda place: (times[place], -place if times[0] > times[-1] else place))
    return [rank for _, rank in sorted(zip(places, range(len(rows)), strict=True))]


def _number(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> datetime | None:
    """A time as ISO 8601, or as seconds, milli-, micro- or nanoseconds since 1970."""
    try:
        if _SINCE_1970.fullmatch(text):
            return datetime.fromtimestamp(float(text) / 1000 ** ((len(text.partition(".")[0]) - 9) // 3), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
