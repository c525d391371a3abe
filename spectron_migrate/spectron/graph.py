"""What Spectron made of the texts: entities, their attributes and relations, and what it is unsure about.

Generations differ here most. 0.0.0 and 0.2.1 show an entity whole, and one key's history at a time. 0.3.0 shows a
bounded head of an entity (`truncated`), all keys in one history, and on each fact its scope and the labels of the
writes that made it; only there can a fact be traced to its memory by a label, and only there is `/uncertainty`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from spectron_migrate.records import Selector
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.selectors import selector_of

MAX_KEYS = 200
"""At most this many keys of an entity are read one by one."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A named thing that facts are about."""

    id: str
    type: str
    name: str


@dataclass(frozen=True, slots=True)
class EntityValue:
    """A value that a key of an entity has or had (an attribute)."""

    id: str
    key: str
    value: str
    superseded_by: str | None
    live: bool
    category: str = ""
    known_at: str = ""
    """The server's `createdAt`: when the value was known, as `observed_at` said."""
    entity: str = ""
    """`type/name` if the server names it so, else its id."""
    labels: tuple[str, ...] | None = None
    """Labels of the writes that made it; None if the generation shows none."""
    scopes: Selector | None = None
    """The scopes in which it can be read; None if the generation does not say."""
    turn: str | None = None
    """The turn that it was extracted from, if the server names one."""


@dataclass(frozen=True, slots=True)
class EntityLink:
    """An edge between two entities, each as `type/name`."""

    id: str
    subject: str
    label: str
    object: str
    labels: tuple[str, ...] | None = None
    scopes: Selector | None = None
    turn: str | None = None


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Something that Spectron is unsure about."""

    id: str
    about: str
    reason: str
    entity: str | None
    key: str | None
    labels: tuple[str, ...]
    scopes: Selector | None
    created_at: str


@dataclass(frozen=True, slots=True)
class History:
    """Every value of an entity."""

    values: tuple[EntityValue, ...]
    is_complete: bool
    """False if the server shows keys one by one and there are too many of them."""


class Graph:
    """Reads what Spectron extracted, in any generation."""

    def __init__(self, api: SpectronApi) -> None:
        self._api = api

    async def shows_labels(self) -> bool:
        """Whether facts name the labels and the scope of the writes that made them."""
        return await self._api.generation() == "0.3.0"

    async def entities(self) -> AsyncIterator[Entity]:
        """All entities that the key may see, page by page."""
        async for row in self._api.pages("/entities", "entities"):
            yield Entity(str(row.get("id", "")), str(row.get("entityType", "")), str(row.get("name", "")))

    async def attributes(self, **query: str) -> AsyncIterator[EntityValue]:
        """Live values, newest first, from 0.2.1 on; `entity` (as `type/name`) and `key` narrow them."""
        async for row in self._api.pages("/attributes", "attributes", query):
            yield value_of(row)

    async def relations(self, **query: str) -> AsyncIterator[EntityLink]:
        """Live relations, newest first, from 0.2.1 on; `src`, `dst` (as `type/name`) and `label` narrow them."""
        async for row in self._api.pages("/relations", "relations", query):
            yield EntityLink(
                str(row.get("id", "")),
                _ref(row.get("subject")),
                str(row.get("label", "")),
                _ref(row.get("object")),
                _labels(row),
                selector_of(row.get("scope")),
                _turn(row),
            )

    async def uncertainties(self) -> AsyncIterator[Uncertainty]:
        """Open uncertainties, newest first; only in 0.3.0."""
        async for row in self._api.pages("/uncertainty", "unknowns", {"resolved": "false"}):
            yield Uncertainty(
                str(row.get("id", "")),
                str(row.get("about", "")),
                str(row.get("reason", "")),
                _ref(row["entity"]) if row.get("entity") else None,
                str(row["key"]) if row.get("key") else None,
                _labels(row) or (),
                selector_of(row.get("scope")),
                str(row.get("createdAt") or ""),
            )

    async def keys(self, entity_type: str, name: str) -> list[str]:
        """The keys of an entity's current attributes; empty if the server knows no such entity."""
        entity = await self._api.read_row(_path(entity_type, name), f"the entity {entity_type}/{name}")
        if entity is None:
            return []
        truncated = entity.get("truncated")
        if isinstance(truncated, dict) and truncated.get("attributes"):
            return list(dict.fromkeys([row.key async for row in self.attributes(entity=f"{entity_type}/{name}")]))
        rows = entity.get("attributes") or []
        return list(dict.fromkeys(str(row["key"]) for row in rows if isinstance(row, dict) and row.get("key")))

    async def history(self, entity_type: str, name: str) -> History:
        """Every value of every key, current or superseded; before 0.3.0 only of keys with a current value."""
        if await self._api.generation() == "0.3.0":
            rows = self._api.pages(f"{_path(entity_type, name)}/history", "history")
            return History(tuple([value_of(row) async for row in rows]), True)
        keys = await self.keys(entity_type, name)
        values: list[EntityValue] = []
        for key in keys[:MAX_KEYS]:
            path = f"{_path(entity_type, name)}/history/{quote(key, safe='')}"
            answer = await self._api.read_row(path, f"the history of {key}") or {}
            values += [value_of({"key": key, **row}) for row in answer.get("history") or [] if isinstance(row, dict)]
        return History(tuple(values), len(keys) <= MAX_KEYS)


def value_of(row: Mapping[str, Any]) -> EntityValue:
    """An attribute of any generation."""
    return EntityValue(
        str(row.get("id", "")),
        str(row.get("key", "")),
        str(row.get("value", "")),
        str(row["supersededBy"]) if row.get("supersededBy") else None,
        row.get("validUntil") is None,
        str(row.get("memoryCategory") or ""),
        str(row.get("createdAt") or ""),
        _ref(row.get("entity")),
        _labels(row),
        selector_of(row.get("scope")),
        _turn(row),
    )


def _path(entity_type: str, name: str) -> str:
    return f"/entities/{quote(entity_type, safe='')}/{quote(name, safe='')}"


def _ref(value: Any) -> str:
    return str(value or "").removeprefix("entity:")


def _labels(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = row.get("labels")
    return tuple(str(label) for label in labels) if isinstance(labels, list) else None


def _turn(row: Mapping[str, Any]) -> str | None:
    source = row.get("source")
    named = source.get("ref") if isinstance(source, dict) and source.get("kind") == "turn" else None
    return str(named).removeprefix("turn:") if named else None
