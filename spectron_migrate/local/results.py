"""What a query finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["memory_chunk", "attribute", "entity"]


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """One result; greater scores are better, and mean nothing across queries."""

    id: str
    text: str
    source: Source
    score: float
    known_at: str


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a question found."""

    hits: tuple[MemoryHit, ...]
    seeds: tuple[str, ...]
    """Names of known entities that the question mentions."""
    tier: Literal["cache", "hybrid"] = "hybrid"
    reason: str = "searched by meaning and by words"
