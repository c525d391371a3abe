"""The rows of the local Spectron, as its store keeps and gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
    """Of length 1, or all zeros for a text without any known word."""

Category = Literal["identity", "knowledge", "context"]
Grants = Mapping[str, Sequence[str]]
"""Verb -> scope patterns."""
Region = frozenset[int] | None
"""The numbers of the selectors that may be read; None: all."""
Kind = Literal["memory_chunk", "attribute"]
Origin = Literal["turn", "upsert"]
"""Origin of a fact: extracted from a turn, or given by the caller (authoritative)."""

# Times are RFC 3339 in UTC with microseconds and a `Z`, so that they compare as text.


@dataclass(frozen=True, slots=True)
class ScopeNode:
    """One registered node of the scope tree."""

    path: str
    created_at: str
    tombstoned_at: str | None = None
    display_name: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, agent or service with its own grants."""

    id: str
    kind: str
    display_name: str
    grants: Grants


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key of a principal; only the digest of its secret is stored."""

    id: str
    name: str
    principal: str
    digest: str
    created_at: str
    grants: Grants | None = None
    """Narrows the principal's grants; None inherits them."""
    valid_until: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A session; its selector is the scope of everything in it."""

    id: str
    selector: int
    created_at: str
    metadata: Any = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, word for word."""

    id: str
    session: str
    seq: int
    """From 1, in order of arrival."""
    role: str
    content: str
    created_at: str
    said_at: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """Something that a search finds: a passage (literal text of a turn) or an attribute (a fact as a line of text)."""

    id: str
    kind: Kind
    selector: int
    text: str
    known_at: str
    """An `asOf` query for this time or later finds it."""
    until: str | None = None
    """When it was superseded, forgotten or expired; None while it is live."""
    duplicate_of: str | None = None
    labels: tuple[str, ...] = ()
    session: str | None = None
    turn: str | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity; unique by type and normalised name in a context."""

    id: str
    type: str
    name: str
    category: Category
    created_at: str
    updated_at: str
    importance: float = 1.0


@dataclass(frozen=True, slots=True)
class Attribute:
    """A current or past value of an entity's key in one scope."""

    id: str
    entity: str
    selector: int
    key: str
    value: str
    category: Category
    confidence: float
    origin: Origin
    turn: str | None
    session: str | None
    created_at: str
    """Known time: `observed_at` if the writer gave it."""
    valid_until: str | None = None
    supersedes: str | None = None
    superseded_by: str | None = None
    importance: float = 1.0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A labelled edge between two entities in one scope."""

    id: str
    subject: str
    label: str
    object: str
    selector: int
    category: Category
    origin: Origin
    turn: str | None
    session: str | None
    created_at: str
    valid_until: str | None = None
    confidence: float = 1.0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """An instruction to the agent (label, description), or an uncertainty (about, reason)."""

    id: str
    kind: Literal["instruction", "uncertainty"]
    selector: int
    subject: str
    text: str
    created_at: str
    entity: str | None = None
    """What an uncertainty is about, if that is one key of one entity."""
    key: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """The row behind an item: its fact, or the turn of its passage."""

    entity_type: str | None
    entity_name: str | None
    key: str | None
    session: str | None
    turn: str | None
    position: int | None
    """The turn's number in its session."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer stored for an idempotency key."""

    digest: str
    body: bytes
    created_at: str


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which items a search considers; all conditions must hold."""

    region: Region = None
    kinds: frozenset[Kind] = frozenset({"memory_chunk", "attribute"})
    duplicates: bool = False
    """Whether near-duplicates of an older passage are included."""
    as_of: str | None = None
    """Search what was known at this time instead of what is live now."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """An item's number and its score; greater is better."""

    number: int
    score: float


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows were erased, by table."""

    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())
