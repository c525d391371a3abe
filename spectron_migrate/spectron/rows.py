"""What the server lists and answers, as values: scopes, sessions, turns, hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectron_migrate.records import Hit, Selector


@dataclass(frozen=True, slots=True)
class ScopeNode:
    """A registered scope; `path` without outer slashes."""

    path: str
    tombstoned: bool


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session that the server opened; `selector` as the server repeated it, None where it did not."""

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
    """The turns of a listing; if any row lacks a number, all are numbered by their order in the listing."""
    numbers = [row.get("seq") for row in rows]
    if not all(isinstance(number, int) for number in numbers):
        numbers = list(range(len(rows)))
    return [
        Turn(
            str(row["id"]),
            str(row.get("content") or ""),
            int(number or 0),
            str(row.get("role") or ""),
            str(row.get("createdAt") or ""),
        )
        for row, number in zip(rows, numbers, strict=True)
    ]
