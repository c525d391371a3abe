"""The interface of fact extraction: `rules` is built in, `language_model` calls an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from spectron_migrate.local.rows import Category

ENTITY_TYPES = frozenset(
    {
        "person",
        "organisation",
        "project",
        "location",
        "topic",
        "product",
        "policy",
        "concept",
        "event",
        "agent",
        "service",
        "other",
    }
)
"""All entity types; any other name becomes `other`."""

SURE, HEDGED = 0.9, 0.5
"""Confidence of a plain statement, and of a hedged one ("maybe")."""

Names = Sequence[tuple[str, str]]
"""Entities as (type, name)."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An attribute of an entity; with `target`, also a relation to that entity."""

    entity: tuple[str, str]
    key: str
    value: str
    confidence: float = SURE
    category: Category = "knowledge"
    target: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Extraction:
    """Facts and instructions of a text, in its order."""

    facts: tuple[Fact, ...] = ()
    instructions: tuple[str, ...] = ()


class Extractor(Protocol):
    """Extracts facts from text."""

    async def extract(self, messages: Sequence[tuple[str, str]], known: Callable[[], Names]) -> Extraction:
        """Extract from a conversation, or from one message of it.

        Args:
            messages: role (user, assistant, system, tool) and text of each, in order.
            known: returns the entities of the same scope, so that the same names are used again.

        Raises:
            ApiError: 429, with which the whole write fails. If nothing can be extracted, for any other reason, the
                extraction is empty, and the text itself is stored all the same.
        """


def type_of(name: str) -> str:
    """The entity type of a name; `other` if there is none."""
    normal = " ".join(name.casefold().split())
    return normal if normal in ENTITY_TYPES else "other"
