"""The interface of the store that keeps the rows of the local Spectron.

`sqlite.SqliteStore` implements `Store`; no other module depends on tables, files or matrices. All calls are made from
one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Protocol

from spectron_migrate.local.rows import (
    ApiKey,
    Attribute,
    Entity,
    Erased,
    Item,
    Note,
    Principal,
    Region,
    Relation,
    Resource,
    ScopeNode,
    ScoredItem,
    SearchFilter,
    Session,
    StoredAnswer,
    Turn,
)
from spectron_migrate.local.scopes import Selector

if TYPE_CHECKING:
    from spectron_migrate.local.rows import Vector


class Store(Protocol):
    """The store of one context. Every change is made inside `transaction()`.

    Changes survive a killed process once `transaction()` has ended without an exception.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end, roll back on an exception; nothing may be awaited inside.

        A nested one can be rolled back alone, and is committed with the outer one.
        """

    def close(self) -> None:
        """Close the files."""

    def revision(self) -> int:
        """Increases with every change."""

    # Scopes. A selector gets a number that never changes; rows carry that number.
    def scopes(self) -> dict[str, ScopeNode]:
        """All nodes by path, tombstoned ones too."""

    def scope(self, path: str) -> ScopeNode | None:
        """One node, tombstoned or not."""

    def put_scope(self, node: ScopeNode) -> None:
        """Add or replace a node."""

    def selector_number(self, selector: Selector, *, unscoped: bool = False) -> int:
        """The number of a selector, new if needed; `unscoped` marks rows of a writer that named no scope."""

    def selectors(self) -> Mapping[int, Selector]:
        """All selectors that were ever used; none is ever removed."""

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
        """The session, or None; without its metadata, which no call returns."""

    def drop_session(self, id: str) -> None:
        """Remove a session, its turns and its passages. Facts extracted from them stay."""

    def add_turn(self, turn: Turn) -> Turn:
        """Append a turn and give it the next `seq` of its session."""

    def turns(self, session: str, *, offset: int = 0, limit: int = 100) -> list[Turn]:
        """Turns of a session, oldest first."""

    def count_turns(self, session: str) -> int:
        """How many turns a session has."""

    # Items and search
    def add_item(self, item: Item, vector: Vector) -> Item:
        """Add an item to the search; returns it with `duplicate_of` if it is a near-duplicate of an older passage."""

    def nearest(self, vector: Vector, filter_: SearchFilter, limit: int) -> list[ScoredItem]:
        """Items by exact cosine, best first; scores from -1 to 1."""

    def matching(self, words: Sequence[str], filter_: SearchFilter, limit: int) -> list[ScoredItem]:
        """Items by BM25 over any of the words, best first; scores above 0."""

    def visible(self, numbers: Iterable[int], filter_: SearchFilter) -> list[int]:
        """Those of the items that a search would consider."""

    def items(self, numbers: Iterable[int]) -> dict[int, Item]:
        """Number -> item."""

    def item_numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """Id -> number."""

    def close_items(self, ids: Sequence[str], at: str) -> int:
        """Soft-delete items and their facts as of a time; returns how many were live."""

    # Facts
    def entity(self, type: str, name: str) -> Entity | None:
        """The entity of a type and a normalised name, or None."""

    def put_entity(self, entity: Entity) -> None:
        """Add or replace an entity."""

    def add_entity_scope(self, entity: str, selector: int) -> bool:
        """Record that an entity occurs in a scope; False if that was known."""

    def entities(self, region: Region, type: str | None = None) -> list[Entity]:
        """Entities that occur in the region, by type and name."""

    def entities_named(self, names: Sequence[str], region: Region) -> list[Entity]:
        """Entities of the region with one of these names, of any type."""

    def entities_by_id(self, ids: Iterable[str]) -> dict[str, Entity]:
        """Id -> entity."""

    def entity_selectors(self, ids: Sequence[str]) -> dict[str, frozenset[int]]:
        """Id -> numbers of the selectors in which the entity occurs."""

    def resources(self, ids: Sequence[str]) -> dict[str, Resource]:
        """Item id -> the row behind it."""

    def drop_entity(self, entity: str, region: Region, at: str) -> int:
        """Soft-delete an entity with its live facts in the region; returns how many rows were closed."""

    def add_attribute(self, attribute: Attribute) -> None:
        """Add a fact; the caller closes those that it supersedes."""

    def close_attribute(self, id: str, at: str, superseded_by: str | None = None) -> None:
        """End a fact's validity; it stays in the history."""

    def relabel(self, table: Literal["attribute", "relation"], id: str, labels: Sequence[str]) -> None:
        """Replace the labels of a fact."""

    def attributes(
        self, region: Region, *, entity: str | None = None, key: str | None = None, history: bool = False
    ) -> list[Attribute]:
        """Facts in the region, oldest first; only live ones without `history`."""

    def add_relation(self, relation: Relation) -> None:
        """Add an edge."""

    def close_relation(self, id: str, at: str) -> None:
        """End an edge's validity."""

    def relations(self, region: Region, *, entity: str | None = None) -> list[Relation]:
        """Live edges in the region, oldest first; `entity` at either end."""

    def add_note(self, note: Note) -> None:
        """Add an instruction or an uncertainty."""

    def hide_items(self, ids: Sequence[str]) -> int:
        """Close items as of their own known time, so that no `asOf` finds them; returns how many were live."""

    def notes(self, region: Region, kind: Literal["instruction", "uncertainty"]) -> list[Note]:
        """Instructions or uncertainties in the region, oldest first."""

    # Maintenance
    def expire(self, before: str, at: str) -> int:
        """Close the live facts of category `context` with a known time before `before`; returns how many."""

    def purge(self, ids: Sequence[str]) -> int:
        """Permanently remove the closed facts under the keys of these facts, including these; returns how many."""

    def erase(self, selectors: Sequence[int]) -> Erased:
        """Permanently remove every row with one of these selectors."""

    def passages(self, region: Region) -> Iterator[Item]:
        """All live passages of a region, oldest first."""

    def unscoped(self, region: Region, sample: int) -> dict[str, tuple[int, list[str]]]:
        """Table -> number of rows that were written without a scope, and a sample of their ids."""

    # Idempotency
    def answer(self, principal: str, key: str) -> StoredAnswer | None:
        """The stored answer of a key, or None."""

    def put_answer(self, principal: str, key: str, replay: StoredAnswer) -> None:
        """Store an answer, in the transaction of its write."""

    def drop_answers(self, before: str) -> None:
        """Drop answers created before a time."""
