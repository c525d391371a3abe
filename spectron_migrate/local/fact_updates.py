"""How a new fact changes what is known.

Facts only affect each other within the same scope, entity and key. A new value supersedes the old one if its confidence
is at least `CONFIDENCE_FLOOR` and at least that of the old one; otherwise both stay live and an uncertainty is
recorded. Facts that a caller gives (triples) are authoritative: text never supersedes them. Arrival decides, not the
known time: an old fact written late becomes the current one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from spectron_migrate.local.embedding import Embedder
from spectron_migrate.local.extract import Extraction, Fact, type_of
from spectron_migrate.local.ids import new_id
from spectron_migrate.local.rows import Attribute, Category, Entity, Item, Note, Origin, Relation
from spectron_migrate.local.storage import Store

CONFIDENCE_FLOOR = 0.7


@dataclass(frozen=True, slots=True)
class Source:
    """Origin of facts, and what is stored with them."""

    selector: int
    now: str
    known_at: str
    origin: Origin = "turn"
    turn: str | None = None
    session: str | None = None
    category: Category | None = None
    """Overrides the category of each fact."""
    labels: tuple[str, ...] = ()
    """Stamped on every row that the write makes."""
    merges_labels: bool = True
    """Whether a row that the write states again gets them too."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A value that superseded another."""

    entity: str
    key: str
    old: str
    new: str


@dataclass(slots=True)
class ExtractionResult:
    """What the extraction from one text, or one call with triples, changed."""

    turn: str
    entities: dict[str, tuple[Entity, bool]] = field(default_factory=dict)
    """Id -> entity, and whether it is new in its scope."""
    attributes: list[Attribute] = field(default_factory=list)
    relations: list[tuple[str, str, str, Category]] = field(default_factory=list)
    """(subject, label, object, category); entities as `type/name`."""
    instructions: list[Note] = field(default_factory=list)
    uncertainties: list[Note] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)


def apply_extraction(
    store: Store, embedder: Embedder, extraction: Extraction, source: Source, result: ExtractionResult
) -> None:
    """Write an extraction into the store, in the caller's transaction; changes are added to `result`."""
    for fact in extraction.facts:
        _FactWriter(store, embedder, source, result).fact(fact)
    for text in extraction.instructions:
        label = " ".join(text.split()[:6])
        note = Note(new_id("ins"), "instruction", source.selector, label, text, source.known_at, labels=source.labels)
        if text not in {known.text for known in store.notes(frozenset({source.selector}), "instruction")}:
            store.add_note(note)
        result.instructions.append(note)


@dataclass(frozen=True, slots=True)
class _FactWriter:
    store: Store
    embedder: Embedder
    source: Source
    result: ExtractionResult

    def fact(self, fact: Fact) -> None:
        category = self.source.category or fact.category
        entity = self.entity(fact.entity, category)
        if fact.target is not None:
            self.relation(entity, fact, category)
        if fact.value:
            self.attribute(entity, fact, category)

    def entity(self, named: tuple[str, str], category: Category) -> Entity:
        type_, name = type_of(named[0]), " ".join(named[1].split())
        entity = self.store.entity(type_, name)
        if entity is None:
            known_at = self.source.known_at
            entity = Entity(new_id("ent"), type_, name, category, known_at, self.source.now)
        else:
            entity = replace(entity, updated_at=self.source.now)
        self.store.put_entity(entity)
        is_new = self.store.add_entity_scope(entity.id, self.source.selector)
        self.result.entities.setdefault(entity.id, (entity, is_new))
        return entity

    def relation(self, subject: Entity, fact: Fact, category: Category) -> None:
        assert fact.target is not None  # noqa: S101 - the caller asked
        object_ = self.entity(fact.target, category)
        source, here = self.source, frozenset({self.source.selector})
        known = [
            edge
            for edge in self.store.relations(here, entity=subject.id)
            if edge.subject == subject.id and edge.label == fact.key
        ]
        self.result.relations.append((_named(subject), fact.key, _named(object_), category))
        for edge in known:
            if edge.object == object_.id:
                self.relabel("relation", edge)
                return
        if fact.value and fact.confidence >= CONFIDENCE_FLOOR:  # the relation mirrors an attribute with one value
            for edge in known:
                self.store.close_relation(edge.id, max(source.known_at, edge.created_at))
        self.store.add_relation(
            Relation(
                new_id("rel"),
                subject.id,
                fact.key,
                object_.id,
                source.selector,
                category,
                source.origin,
                source.turn,
                source.session,
                source.known_at,
                confidence=fact.confidence,
                labels=source.labels,
            )
        )

    def attribute(self, entity: Entity, fact: Fact, category: Category) -> None:
        live = self.store.attributes(frozenset({self.source.selector}), entity=entity.id, key=fact.key)
        same = [known for known in live if known.value.casefold() == fact.value.casefold()]
        if same:
            self.relabel("attribute", same[0])
            self.result.attributes.append(same[0])
            return
        if self.source.origin == "turn" and any(known.origin == "upsert" for known in live):
            self.uncertainty(entity, fact, f"{fact.value!r} contradicts an authoritative value")
            return
        wins = fact.confidence >= CONFIDENCE_FLOOR and all(fact.confidence >= old.confidence for old in live)
        new = self.new_attribute(entity, fact, category, supersedes=live[-1].id if live and wins else None)
        if live and not wins:
            self.uncertainty(entity, fact, f"{fact.value!r} is less certain than the known value")
        for old in live if wins else ():
            self.store.close_attribute(old.id, max(self.source.known_at, old.created_at), superseded_by=new.id)
            self.result.corrections.append(Correction(entity.id, fact.key, old.value, fact.value))

    def new_attribute(self, entity: Entity, fact: Fact, category: Category, supersedes: str | None) -> Attribute:
        source = self.source
        attribute = Attribute(
            new_id("attr"),
            entity.id,
            source.selector,
            fact.key,
            fact.value,
            category,
            fact.confidence,
            source.origin,
            source.turn,
            source.session,
            source.known_at,
            supersedes=supersedes,
            labels=source.labels,
        )
        self.store.add_attribute(attribute)
        text = f"{entity.name} {fact.key.replace('_', ' ')}: {fact.value}"
        item = Item(attribute.id, "attribute", source.selector, text, source.known_at, labels=source.labels)
        self.store.add_item(item, self.embedder.embed([text])[0])
        self.result.attributes.append(attribute)
        return attribute

    def relabel(self, table: Literal["attribute", "relation"], row: Attribute | Relation) -> None:
        """A row that is stated again carries the labels of both writes."""
        labels = tuple(dict.fromkeys((*row.labels, *self.source.labels)))
        if self.source.merges_labels and labels != row.labels:
            self.store.relabel(table, row.id, labels)

    def uncertainty(self, entity: Entity, fact: Fact, reason: str) -> None:
        about = f"{_named(entity)} {fact.key}"
        source = self.source
        note = Note(
            new_id("unc"),
            "uncertainty",
            source.selector,
            about,
            reason,
            source.known_at,
            entity=_named(entity),
            key=fact.key,
            labels=source.labels,
        )
        self.store.add_note(note)
        self.result.uncertainties.append(note)


def _named(entity: Entity) -> str:
    return f"{entity.type}/{entity.name}"
