"""What a query finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["memory_chunk", "attribute", "entity"]


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """One hit; greater scores are better, and are not comparable across queries."""

    id: str
    text: str
    source: Source
    score: float
    known_at: str


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to a query."""

    hits: tuple[MemoryHit, ...]
    next_ranks: tuple[MemoryHit, ...]
    """What came next and is no hit (`contextHits` of 0.3.0)."""
    seeds: tuple[str, ...]
    """Names of known entities that the query mentions."""
    tier: Literal["cache", "hybrid"] = "hybrid"
    reason: str = "searched by meaning and by words"
