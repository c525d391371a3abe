"""What the local Spectron keeps, and the interface of the thing that keeps it.

`sqlite.SqliteStore` is the implementation. Another one has to satisfy `Store`; nothing above this module
knows about tables, files or matrices. All calls are made from one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spectron_migrate.local.scopes import Selector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
    """Of length 1, or all zeros for a text without a single known word."""

Category = Literal["identity", "knowledge", "context"]
Grants = Mapping[str, Sequence[str]]
"""Verb -> scope patterns."""
Region = frozenset[int] | None
"""The selectors (by number) that may be looked at; None is all of them."""
Kind = Literal["memory_chunk", "attribute"]
Origin = Literal["turn", "upsert"]
"""Where a fact comes from: extracted from a turn, or given by the caller, which makes it authoritative."""

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
    """Somebody with grants of their own."""

    id: str
    kind: str
    display_name: str
    grants: Grants


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One way of a principal to prove itself; `digest` is all that is kept of the secret."""

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
    """A conversation; its selector is the scope of everything in it."""

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
    """Something that a search can find: a passage (a turn's literal text) or an attribute (a fact as a line)."""

    id: str
    kind: Kind
    selector: int
    text: str
    known_at: str
    """From when on an `asOf` query sees it."""
    until: str | None = None
    """When it was superseded, forgotten or expired; None while it is live."""
    duplicate_of: str | None = None
    labels: tuple[str, ...] = ()
    session: str | None = None
    turn: str | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """A named thing; one for each normalised type and name in a context."""

    id: str
    type: str
    name: str
    category: Category
    created_at: str
    updated_at: str
    importance: float = 1.0


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is, or was, known about an entity under one key in one scope."""

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
    """Known time: `observed_at` where the writer gave one."""
    valid_until: str | None = None
    supersedes: str | None = None
    superseded_by: str | None = None
    importance: float = 1.0


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


@dataclass(frozen=True, slots=True)
class Note:
    """An instruction to the agent (label, description), or an uncertainty (about, reason)."""

    id: str
    kind: Literal["instruction", "uncertainty"]
    selector: int
    subject: str
    text: str
    created_at: str


@dataclass(frozen=True, slots=True)
class Resource:
    """The row behind an item: the fact it renders, or the turn it is a passage of."""

    entity_type: str | None
    entity_name: str | None
    key: str | None
    session: str | None
    turn: str | None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer kept for an idempotency key."""

    digest: str
    body: bytes
    created_at: str


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which items a search is about. Everything given must hold."""

    region: Region = None
    kinds: frozenset[Kind] = frozenset({"memory_chunk", "attribute"})
    duplicates: bool = False
    """Whether near-duplicates of an older passage are shown."""
    as_of: str | None = None
    """Look at what was known then instead of what is live now."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """An item's number and how well it answers; greater is better."""

    number: int
    score: float


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows an erasure removed, by table."""

    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.rows.values())


class Store(Protocol):
    """Everything one context knows. Every change happens inside `transaction()`, whole or not at all.

    When `transaction()` ends without an exception its changes survive a killed process.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end, undo everything on an exception; nothing may be awaited inside.

        Inside another one it is a part of that: undone alone, and durable when the outer one is.
        """

    def close(self) -> None:
        """Let go of the files."""

    def revision(self) -> int:
        """Rises with every change."""

    # Scopes. A selector gets a number that never changes; rows carry that number.
    def scopes(self) -> dict[str, ScopeNode]:
        """All nodes by path, tombstoned ones too."""

    def scope(self, path: str) -> ScopeNode | None:
        """One node, tombstoned or not."""

    def put_scope(self, node: ScopeNode) -> None:
        """Add or replace a node."""

    def selector_number(self, selector: Selector, *, unscoped: bool = False) -> int:
        """The number of a selector; `unscoped` marks rows whose writer named no scope."""

    def selectors(self) -> Mapping[int, Selector]:
        """All selectors that were ever used; only grows."""

    # Principals and keys
    def principals(self) -> dict[str, Principal]:
        """All principals by id."""

    def put_principal(self, principal: Principal) -> None:
        """Add or replace a principal."""

    def api_keys(self) -> list[ApiKey]:
        """All keys, oldest first."""

    def put_key(self, key: ApiKey) -> None:
        """Add or replace a key."""

    def drop_key(self, id: str) -> None:
        """Remove a key."""

    # Sessions and turns
    def put_session(self, session: Session) -> None:
        """Add a session."""

    def session(self, id: str) -> Session | None:
        """The session, if there is one; without its metadata, which no call gives back."""

    def drop_session(self, id: str) -> None:
        """Remove a session, its turns and its passages. Facts drawn from them stay."""

    def add_turn(self, turn: Turn) -> Turn:
        """Append a turn and give it the next `seq` of its session."""

    def turns(self, session: str, *, offset: int = 0, limit: int = 100) -> list[Turn]:
        """Turns of a session, oldest first."""

    def count_turns(self, session: str) -> int:
        """How many turns a session has."""

    # Items and search
    def add_item(self, item: Item, vector: Vector) -> Item:
        """Make something findable; a passage learns here of which older one it is a near-duplicate."""

    def nearest(self, vector: Vector, want: SearchFilter, limit: int) -> list[ScoredItem]:
        """By cosine, exact, best first; scores from -1 to 1."""

    def matching(self, words: Sequence[str], want: SearchFilter, limit: int) -> list[ScoredItem]:
        """By BM25 over any of the words, best first; scores above 0."""

    def visible(self, numbers: Iterable[int], want: SearchFilter) -> list[int]:
        """Those of the items that a search would look at."""

    def items(self, numbers: Iterable[int]) -> dict[int, Item]:
        """The items behind the numbers of a search."""

    def item_numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """The numbers behind ids."""

    def close_items(self, ids: Sequence[str], at: str) -> int:
        """Soft-delete items, and the facts they show, as of a time; how many were live."""

    # Facts
    def entity(self, type: str, name: str) -> Entity | None:
        """By exact normalised type and name."""

    def put_entity(self, entity: Entity) -> None:
        """Add or replace an entity."""

    def involve(self, entity: str, selector: int) -> bool:
        """Note that an entity occurs in a scope; False if that was known."""

    def entities(self, region: Region, type: str | None = None) -> list[Entity]:
        """Entities that occur in the region, by type and name."""

    def entities_named(self, names: Sequence[str], region: Region) -> list[Entity]:
        """Entities of the region that bear one of these names, whatever their type."""

    def entities_by_id(self, ids: Iterable[str]) -> dict[str, Entity]:
        """The entities behind ids."""

    def entity_selectors(self, ids: Sequence[str]) -> dict[str, frozenset[int]]:
        """Where entities occur."""

    def resources(self, ids: Sequence[str]) -> dict[str, Resource]:
        """What the items behind ids stand for."""

    def drop_entity(self, entity: str, region: Region, at: str) -> int:
        """Soft-delete an entity with its live facts in the region; how many rows that closed."""

    def add_attribute(self, attribute: Attribute) -> None:
        """Add a fact; closing what it supersedes is the caller's job."""

    def close_attribute(self, id: str, at: str, superseded_by: str | None = None) -> None:
        """End a fact's validity; it stays in the history."""

    def attributes(
        self, region: Region, *, entity: str | None = None, key: str | None = None, history: bool = False
    ) -> list[Attribute]:
        """Facts in the region, oldest first; live ones only unless `history`."""

    def add_relation(self, relation: Relation) -> None:
        """Add an edge."""

    def close_relation(self, id: str, at: str) -> None:
        """End an edge's validity."""

    def relations(self, region: Region, *, entity: str | None = None) -> list[Relation]:
        """Live edges in the region, oldest first; `entity` at either end."""

    def add_note(self, note: Note) -> None:
        """Add an instruction or an uncertainty."""

    def notes(self, region: Region, kind: Literal["instruction", "uncertainty"]) -> list[Note]:
        """Instructions or uncertainties in the region, oldest first."""

    # Upkeep
    def expire(self, before: str, at: str) -> int:
        """Close the live `context` facts whose known time is earlier than `before`; how many."""

    def purge(self, ids: Sequence[str]) -> int:
        """Remove for good what is closed under the keys of these facts, themselves included; how many."""

    def erase(self, selectors: Sequence[int]) -> Erased:
        """Remove for good everything that carries one of these selectors."""

    def passages(self, region: Region) -> Iterator[Item]:
        """All live passages of a region, oldest first."""

    def unscoped(self, region: Region, sample: int) -> dict[str, tuple[int, list[str]]]:
        """Table -> how many rows were written without a scope, and a few of their ids."""

    # Idempotency
    def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """The answer kept for a key."""

    def put_answer(self, principal: str, key: str, replay: StoredAnswer) -> None:
        """Keep an answer, in the transaction of the write that it answers."""

    def drop_answers(self, before: str) -> None:
        """Let go of the answers that are older."""
