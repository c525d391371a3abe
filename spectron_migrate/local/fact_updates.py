"""What a new fact does to what is already known.

Facts meet only within the same scope, entity and key; scopes never contradict each other. The new value
supersedes the old one if it is sure enough (`CONFIDENCE_FLOOR`) and at least as sure as the old one. If it
is not, both stay live and the doubt is noted. What a caller gave (triples) is authoritative: text never
supersedes it. Arrival decides, not the clock: an old fact written late becomes the current one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from spectron_migrate.local.embedding import Embedder
from spectron_migrate.local.extract import Extraction, Fact, type_of
from spectron_migrate.local.ids import new_id
from spectron_migrate.local.storage import Attribute, Category, Entity, Item, Note, Origin, Relation, Store

CONFIDENCE_FLOOR = 0.7


@dataclass(frozen=True, slots=True)
class Source:
    """Where facts come from, and what is written on them."""

    selector: int
    now: str
    known_at: str
    origin: Origin = "turn"
    turn: str | None = None
    session: str | None = None
    category: Category | None = None
    """Overrides the category of each fact."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Correction:
    """A value that took the place of another."""

    entity: str
    key: str
    old: str
    new: str


@dataclass(slots=True)
class ExtractionResult:
    """What one text, or one call, changed."""

    turn: str
    entities: dict[str, tuple[Entity, bool]] = field(default_factory=dict)
    """By id, and whether it is new in its scope."""
    attributes: list[Attribute] = field(default_factory=list)
    relations: list[tuple[str, str, str, Category]] = field(default_factory=list)
    """Subject, label, object, category; entities as `type/name`."""
    instructions: list[Note] = field(default_factory=list)
    uncertainties: list[Note] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)


def apply_extraction(
    store: Store, embedder: Embedder, extraction: Extraction, source: Source, outcome: ExtractionResult
) -> None:
    """Write what a text says into the store, inside the caller's transaction; `outcome` tells what happened."""
    for fact in extraction.facts:
        _Step(store, embedder, source, outcome).fact(fact)
    for text in extraction.instructions:
        label = " ".join(text.split()[:6])
        note = Note(new_id("ins"), "instruction", source.selector, label, text, source.known_at)
        if text not in {known.text for known in store.notes(frozenset({source.selector}), "instruction")}:
            store.add_note(note)
        outcome.instructions.append(note)


@dataclass(frozen=True, slots=True)
class _Step:
    store: Store
    embedder: Embedder
    source: Source
    outcome: ExtractionResult

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
        is_new = self.store.involve(entity.id, self.source.selector)
        self.outcome.entities.setdefault(entity.id, (entity, is_new))
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
        self.outcome.relations.append((_named(subject), fact.key, _named(object_), category))
        if any(edge.object == object_.id for edge in known):
            return
        if fact.value and fact.confidence >= CONFIDENCE_FLOOR:  # it mirrors an attribute of one value
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
            )
        )

    def attribute(self, entity: Entity, fact: Fact, category: Category) -> None:
        live = self.store.attributes(frozenset({self.source.selector}), entity=entity.id, key=fact.key)
        same = [known for known in live if known.value.casefold() == fact.value.casefold()]
        if same:
            self.outcome.attributes.append(same[0])
            return
        if self.source.origin == "turn" and any(known.origin == "upsert" for known in live):
            self.doubt(entity, fact, f"{fact.value!r} contradicts an authoritative value")
            return
        wins = fact.confidence >= CONFIDENCE_FLOOR and all(fact.confidence >= old.confidence for old in live)
        new = self.new_attribute(entity, fact, category, supersedes=live[-1].id if live and wins else None)
        if live and not wins:
            self.doubt(entity, fact, f"{fact.value!r} is less certain than what is known")
        for old in live if wins else ():
            self.store.close_attribute(old.id, max(self.source.known_at, old.created_at), superseded_by=new.id)
            self.outcome.corrections.append(Correction(entity.id, fact.key, old.value, fact.value))

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
        )
        self.store.add_attribute(attribute)
        text = f"{entity.name} {fact.key.replace('_', ' ')}: {fact.value}"
        item = Item(attribute.id, "attribute", source.selector, text, source.known_at, labels=source.labels)
        self.store.add_item(item, self.embedder.embed([text])[0])
        self.outcome.attributes.append(attribute)
        return attribute

    def doubt(self, entity: Entity, fact: Fact, reason: str) -> None:
        about = f"{_named(entity)} {fact.key}"
        note = Note(new_id("unc"), "uncertainty", self.source.selector, about, reason, self.source.known_at)
        self.store.add_note(note)
        self.outcome.uncertainties.append(note)


def _named(entity: Entity) -> str:
    return f"{entity.type}/{entity.name}"
