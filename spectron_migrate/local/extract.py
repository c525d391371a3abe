"""From a conversation to facts: the interface. `rules` is built in, `language_model` asks an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from spectron_migrate.local.storage import Category

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
"""The closed set; any other type becomes `other`."""

SURE, HEDGED = 0.9, 0.5
"""Confidence of a plain statement, and of one with a "maybe" in it."""

Names = Sequence[tuple[str, str]]
"""Entities, as type and name."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An attribute of an entity; `target` names another entity that it ties to."""

    entity: tuple[str, str]
    key: str
    value: str
    confidence: float = SURE
    category: Category = "knowledge"
    target: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Extraction:
    """All that a text says, in its order."""

    facts: tuple[Fact, ...] = ()
    instructions: tuple[str, ...] = ()


class Extractor(Protocol):
    """Draws facts from text."""

    async def extract(self, messages: Sequence[tuple[str, str]], known: Callable[[], Names]) -> Extraction:
        """Read a conversation, or one message of it.

        Args:
            messages: role (user, assistant, system, tool) and text of each, in order.
            known: asks for the entities of the same scope, so that their names are kept the same.

        Raises:
            ApiError: only for what the whole write must fail with (429). A text from which nothing can be
                drawn, for whatever reason, is an empty extraction: the text itself is stored all the same.
        """


def type_of(name: str) -> str:
    """A type of the closed set."""
    normal = " ".join(name.casefold().split())
    return normal if normal in ENTITY_TYPES else "other"
