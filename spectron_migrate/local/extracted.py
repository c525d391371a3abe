"""Tables of what was extracted from texts: entities, their attributes and relations, and notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from spectron_migrate.local.items import ItemTable, in_region
from spectron_migrate.local.rows import Attribute, Entity, Note, Region, Relation, Resource

_ATTRIBUTE = (
    "id, entity, selector, key, value, category, confidence, origin, turn, session, created_at,"
    " valid_until, supersedes, superseded_by, importance, labels"
)
_RELATION = (
    "id, subject, label, object, selector, category, origin, turn, session, created_at, valid_until, confidence, labels"
)
_NOTE = "id, kind, selector, subject, text, created_at, entity, key, labels"
_ENTITY = "id, type, name, category, created_at, updated_at, importance"


class ExtractedTables(ItemTable):
    """The part of `storage.Store` that is about what was extracted, besides items."""

    def entity(self, type: str, name: str) -> Entity | None:
        row = self._db.execute(
            f"SELECT {_ENTITY} FROM entity WHERE type = ? AND normal_name = ?", (type, _normal(name))
        ).fetchone()
        return Entity(*row) if row else None

    def put_entity(self, entity: Entity) -> None:
        self._db.execute(
            f"INSERT INTO entity({_ENTITY}, normal_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(id) DO UPDATE SET category = excluded.category, updated_at = excluded.updated_at,"
            " importance = excluded.importance",
            (
                entity.id,
                entity.type,
                entity.name,
                entity.category,
                entity.created_at,
                entity.updated_at,
                entity.importance,
                _normal(entity.name),
            ),
        )

    def add_entity_scope(self, entity: str, selector: int) -> bool:
        cursor = self._db.execute(
            "INSERT INTO entity_scope(entity, selector) VALUES (?, ?)"
            " ON CONFLICT(entity, selector) DO UPDATE SET until = NULL WHERE until IS NOT NULL",
            (entity, selector),
        )
        return cursor.rowcount > 0

    def entities(self, region: Region, type: str | None = None) -> list[Entity]:
        where, values = in_region(region)
        if type is not None:
            where, values = f"{where} AND type = ?", (*values, type)
        rows = self._db.execute(
            f"SELECT DISTINCT {_ENTITY} FROM entity JOIN entity_scope ON entity = id"
            f" WHERE until IS NULL AND {where} ORDER BY type, normal_name",
            values,
        )
        return [Entity(*row) for row in rows]

    def entities_named(self, names: Sequence[str], region: Region) -> list[Entity]:
        where, values = in_region(region)
        rows = self._db.execute(
            f"SELECT DISTINCT {_ENTITY} FROM entity JOIN entity_scope ON entity = id"
            f" WHERE normal_name IN (SELECT value FROM json_each(?)) AND until IS NULL AND {where}"
            " ORDER BY type, normal_name",
            (json.dumps([_normal(name) for name in names]), *values),
        )
        return [Entity(*row) for row in rows]

    def entities_by_id(self, ids: Iterable[str]) -> dict[str, Entity]:
        rows = self._db.execute(
            f"SELECT {_ENTITY} FROM entity WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
        )
        return {row[0]: Entity(*row) for row in rows}

    def entity_selectors(self, ids: Sequence[str]) -> dict[str, frozenset[int]]:
        rows = self._db.execute(
            "SELECT entity, json_group_array(selector) FROM entity_scope"
            " WHERE until IS NULL AND entity IN (SELECT value FROM json_each(?)) GROUP BY entity",
            (json.dumps(ids),),
        )
        return {entity: frozenset(json.loads(selectors)) for entity, selectors in rows}

    def resources(self, ids: Sequence[str]) -> dict[str, Resource]:
        rows = self._db.execute(
            "SELECT item.id, entity.type, entity.name, key, item.session, item.turn, (SELECT seq FROM turn"
            " WHERE turn.session = item.session AND turn.id = item.turn) FROM item"
            " LEFT JOIN attribute ON attribute.id = item.id LEFT JOIN entity ON entity.id = attribute.entity"
            " WHERE item.id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        return {row[0]: Resource(*row[1:]) for row in rows}

    def drop_entity(self, entity: str, region: Region, at: str) -> int:
        facts = [fact.id for fact in self.attributes(region, entity=entity)]
        edges = [edge.id for edge in self.relations(region, entity=entity)]
        self.close_items(facts, at)
        for edge in edges:
            self.close_relation(edge, at)
        where, values = in_region(region)
        self._db.execute(f"UPDATE entity_scope SET until = ? WHERE entity = ? AND {where}", (at, entity, *values))
        return len(facts) + len(edges)

    def add_attribute(self, attribute: Attribute) -> None:
        marks = ", ".join("?" * 16)
        self._db.execute(f"INSERT INTO attribute({_ATTRIBUTE}) VALUES ({marks})", tuple(_fields(attribute).values()))

    def close_attribute(self, id: str, at: str, superseded_by: str | None = None) -> None:
        self.close_items([id], at)
        self._db.execute("UPDATE attribute SET superseded_by = ? WHERE id = ?", (superseded_by, id))

    def relabel(self, table: Literal["attribute", "relation"], id: str, labels: Sequence[str]) -> None:
        self._db.execute(f"UPDATE {table} SET labels = ? WHERE id = ?", (json.dumps(labels), id))
        self._db.execute("UPDATE item SET labels = ? WHERE id = ?", (json.dumps(labels), id))

    def attributes(
        self, region: Region, *, entity: str | None = None, key: str | None = None, history: bool = False
    ) -> list[Attribute]:
        where, values = in_region(region)
        for column, wanted in (("entity", entity), ("key", key)):
            if wanted is not None:
                where, values = f"{where} AND {column} = ?", (*values, wanted)
        if not history:
            where += " AND valid_until IS NULL"
        rows = self._db.execute(f"SELECT {_ATTRIBUTE} FROM attribute WHERE {where} ORDER BY rowid", values)
        return [replace(Attribute(*row), labels=_labels(row[15])) for row in rows]

    def add_relation(self, relation: Relation) -> None:
        marks = ", ".join("?" * 13)
        self._db.execute(f"INSERT INTO relation({_RELATION}) VALUES ({marks})", tuple(_fields(relation).values()))

    def close_relation(self, id: str, at: str) -> None:
        self._db.execute("UPDATE relation SET valid_until = ? WHERE id = ? AND valid_until IS NULL", (at, id))

    def relations(self, region: Region, *, entity: str | None = None) -> list[Relation]:
        where, values = in_region(region)
        if entity is not None:
            where, values = f"{where} AND (subject = ? OR object = ?)", (*values, entity, entity)
        rows = self._db.execute(
            f"SELECT {_RELATION} FROM relation WHERE valid_until IS NULL AND {where} ORDER BY rowid", values
        )
        return [replace(Relation(*row), labels=_labels(row[12])) for row in rows]

    def add_note(self, note: Note) -> None:
        marks = ", ".join("?" * 9)
        self._db.execute(f"INSERT INTO note({_NOTE}) VALUES ({marks})", tuple(_fields(note).values()))

    def notes(self, region: Region, kind: Literal["instruction", "uncertainty"]) -> list[Note]:
        where, values = in_region(region)
        rows = self._db.execute(
            f"SELECT {_NOTE} FROM note WHERE kind = ? AND {where} ORDER BY rowid",
            (kind, *values),
        )
        return [replace(Note(*row), labels=_labels(row[8])) for row in rows]


def _normal(name: str) -> str:
    return " ".join(name.casefold().split())


def _fields(row: Attribute | Relation | Note) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in row.__slots__}
    return fields | {"labels": json.dumps(row.labels) if row.labels else None}


def _labels(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()
