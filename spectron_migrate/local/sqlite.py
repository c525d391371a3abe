"""The store in one SQLite file (or in memory): tables, FTS5 for BM25, and the vectors beside them.

An acknowledged write survives `kill -9` at any moment, because each transaction is in the write-ahead log before it is
answered. The log is not synced for each transaction: a power cut or a crash of the machine may lose the last ones, and
the file stays consistent.

For readers of the file (an oracle in a test, a curious person), these views are kept stable:

    turns       id, session, seq, role, content, created_at, said_at, scopes, metadata
    sessions    id, scopes, metadata, created_at, turns
    facts       id, entity, key, value, scopes, category, confidence, origin, turn, session,
                created_at, valid_until, supersedes, superseded_by, labels (as JSON, or null)
    passages    id, turn, session, text, scopes, known_at, until, duplicate_of
    idempotency principal, key, digest, body, created_at   (a table)

`scopes` is the selector as JSON with canonical paths (`[["user/alice/"]]`). Open the file read-only (`file:…?mode=ro`);
the server may be running.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from spectron_migrate.local.items import ItemTable, in_region
from spectron_migrate.local.schema import prepare
from spectron_migrate.local.scopes import Selector
from spectron_migrate.local.storage import (
    ApiKey,
    Attribute,
    Entity,
    Erased,
    Note,
    Principal,
    Region,
    Relation,
    Resource,
    ScopeNode,
    Session,
    StoredAnswer,
    Turn,
)

_ATTRIBUTE = (
    "id, entity, selector, key, value, category, confidence, origin, turn, session, created_at,"
    " valid_until, supersedes, superseded_by, importance, labels"
)
_RELATION = (
    "id, subject, label, object, selector, category, origin, turn, session, created_at, valid_until, confidence, labels"
)
_NOTE = "id, kind, selector, subject, text, created_at, entity, key, labels"
_ENTITY = "id, type, name, category, created_at, updated_at, importance"
_SESSIONS = 10_000
"""Sessions cached in memory: a write reads its session twice, and sessions never change."""


class SqliteStore(ItemTable):
    """Implements `storage.Store`, which documents the methods."""

    def __init__(self, path: Path | None, context: str, dimensions: int) -> None:
        """Open or create the store of a context.

        Args:
            path: the database file; None keeps everything in memory.
            context: the context id; a file of another context is refused.
            dimensions: length of the vectors.

        Raises:
            StoreRefused: the file is of another context or format, or in use by another process.
        """
        db, self._lock = prepare(path, context, dimensions)
        super().__init__(db, dimensions)
        self._selectors = {
            number: _selector(clauses) for number, clauses in self._db.execute("SELECT number, clauses FROM selector")
        }
        self._sessions: dict[str, Session] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        inner = self._db.in_transaction
        self._db.execute("SAVEPOINT part" if inner else "BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("RELEASE part" if inner else "COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK TO part" if inner else "ROLLBACK")
                if inner:
                    self._db.execute("RELEASE part")
            self._drop_caches()
            raise

    def _drop_caches(self) -> None:
        super()._drop_caches()
        self._sessions.clear()
        rows = self._db.execute("SELECT number, clauses FROM selector")
        self._selectors.clear()
        self._selectors.update({number: _selector(clauses) for number, clauses in rows})

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def revision(self) -> int:
        return self._db.total_changes

    # Scopes

    def scopes(self) -> dict[str, ScopeNode]:
        rows = self._db.execute(
            "SELECT path, created_at, tombstoned_at, display_name, description FROM scope ORDER BY path"
        )
        return {row[0]: ScopeNode(*row) for row in rows}

    def scope(self, path: str) -> ScopeNode | None:
        row = self._db.execute(
            "SELECT path, created_at, tombstoned_at, display_name, description FROM scope WHERE path = ?", (path,)
        ).fetchone()
        return ScopeNode(*row) if row else None

    def put_scope(self, node: ScopeNode) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO scope VALUES (?, ?, ?, ?, ?)",
            (node.path, node.created_at, node.tombstoned_at, node.display_name, node.description),
        )

    def selector_number(self, selector: Selector, *, unscoped: bool = False) -> int:
        clauses = json.dumps(selector)
        known = self._db.execute(
            "SELECT number FROM selector WHERE clauses = ? AND unscoped = ?", (clauses, unscoped)
        ).fetchone()
        if known:
            return int(known[0])
        cursor = self._db.execute("INSERT INTO selector(clauses, unscoped) VALUES (?, ?)", (clauses, unscoped))
        number = cursor.lastrowid
        assert number is not None  # noqa: S101 - an INSERT always has one
        self._selectors[number] = selector
        return number

    def selectors(self) -> Mapping[int, Selector]:
        return self._selectors

    # Principals and keys

    def principals(self) -> dict[str, Principal]:
        rows = self._db.execute("SELECT id, kind, display_name, grants FROM principal ORDER BY id")
        return {row[0]: Principal(row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    def put_principal(self, principal: Principal) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO principal VALUES (?, ?, ?, ?)",
            (principal.id, principal.kind, principal.display_name, json.dumps(principal.grants)),
        )

    def api_keys(self) -> list[ApiKey]:
        rows = self._db.execute(
            "SELECT id, name, principal, digest, created_at, grants, valid_until FROM key ORDER BY created_at, id"
        )
        return [replace(ApiKey(*row), grants=None if row[5] is None else json.loads(row[5])) for row in rows]

    def put_key(self, key: ApiKey) -> None:
        grants = None if key.grants is None else json.dumps(key.grants)
        self._db.execute(
            "INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key.id,
                key.name,
                key.principal,
                key.digest,
                key.created_at,
                grants,
                key.valid_until,
            ),
        )

    def drop_key(self, id: str) -> None:
        self._db.execute("DELETE FROM key WHERE id = ?", (id,))

    # Sessions and turns

    def put_session(self, session: Session) -> None:
        self._db.execute(
            "INSERT INTO session VALUES (?, ?, ?, ?)",
            (session.id, session.selector, session.created_at, json.dumps(session.metadata)),
        )

    def session(self, id: str) -> Session | None:
        known = self._sessions.get(id)
        if known is None:
            row = self._db.execute("SELECT id, selector, created_at FROM session WHERE id = ?", (id,)).fetchone()
            if row is None:
                return None
            if len(self._sessions) >= _SESSIONS:
                self._sessions.clear()
            known = self._sessions[id] = Session(*row)
        return known

    def drop_session(self, id: str) -> None:
        self._sessions.pop(id, None)
        self._drop_items("session = ? AND kind = 'memory_chunk'", (id,))
        self._db.execute("DELETE FROM turn WHERE session = ?", (id,))
        self._db.execute("DELETE FROM session WHERE id = ?", (id,))

    def add_turn(self, turn: Turn) -> Turn:
        (seq,) = self._db.execute(
            "INSERT INTO turn(id, session, seq, role, content, created_at, said_at)"
            " VALUES (?1, ?2, (SELECT coalesce(max(seq), 0) + 1 FROM turn WHERE session = ?2), ?3, ?4, ?5, ?6)"
            " RETURNING seq",
            (turn.id, turn.session, turn.role, turn.content, turn.created_at, turn.said_at),
        ).fetchone()
        return Turn(turn.id, turn.session, seq, turn.role, turn.content, turn.created_at, turn.said_at)

    def turns(self, session: str, *, offset: int = 0, limit: int = 100) -> list[Turn]:
        rows = self._db.execute(
            "SELECT id, session, seq, role, content, created_at, said_at FROM turn WHERE session = ?"
            " ORDER BY seq LIMIT ? OFFSET ?",
            (session, limit, offset),
        )
        return [Turn(*row) for row in rows]

    def count_turns(self, session: str) -> int:
        return int(self._db.execute("SELECT count(*) FROM turn WHERE session = ?", (session,)).fetchone()[0])

    # Facts

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

    # Maintenance

    def expire(self, before: str, at: str) -> int:
        facts = self._db.execute(
            "SELECT id FROM attribute WHERE category = 'context' AND valid_until IS NULL AND created_at < ?",
            (before,),
        ).fetchall()
        self.close_items([row[0] for row in facts], at)
        edges = self._db.execute(
            "UPDATE relation SET valid_until = ? WHERE category = 'context' AND valid_until IS NULL AND created_at < ?",
            (at, before),
        )
        return len(facts) + edges.rowcount

    def purge(self, ids: Sequence[str]) -> int:
        rows = self._db.execute(
            "SELECT id FROM attribute AS old WHERE valid_until IS NOT NULL AND EXISTS (SELECT 1 FROM attribute AS new"
            " WHERE new.id IN (SELECT value FROM json_each(?)) AND new.entity = old.entity AND new.key = old.key"
            " AND new.selector = old.selector)",
            (json.dumps(ids),),
        ).fetchall()
        gone = json.dumps([row[0] for row in rows])
        self._drop_items("id IN (SELECT value FROM json_each(?))", (gone,))
        self._db.execute("DELETE FROM attribute WHERE id IN (SELECT value FROM json_each(?))", (gone,))
        return len(rows)

    def erase(self, selectors: Sequence[int]) -> Erased:
        self._sessions.clear()
        region = json.dumps(selectors)
        inside = "selector IN (SELECT value FROM json_each(?))"
        rows = {"item": self._drop_items(inside, (region,))}
        rows["turn"] = self._db.execute(
            f"DELETE FROM turn WHERE session IN (SELECT id FROM session WHERE {inside})", (region,)
        ).rowcount
        for table in ("session", "attribute", "relation", "note", "entity_scope"):
            rows[table] = self._db.execute(f"DELETE FROM {table} WHERE {inside}", (region,)).rowcount
        rows["entity"] = self._db.execute(
            "DELETE FROM entity WHERE id NOT IN (SELECT entity FROM entity_scope)"
        ).rowcount
        return Erased(rows)

    def unscoped(self, region: Region, sample: int) -> dict[str, tuple[int, list[str]]]:
        where, values = in_region(region)
        where += " AND selector IN (SELECT number FROM selector WHERE unscoped)"
        found = {}
        for table, narrowed in (
            ("session", "session WHERE"),
            ("memory_chunk", "item WHERE kind = 'memory_chunk' AND"),
            ("attribute", "attribute WHERE"),
        ):
            rows = self._db.execute(f"SELECT id FROM {narrowed} {where} ORDER BY rowid", values).fetchall()
            if rows:
                found[table] = (len(rows), [row[0] for row in rows[:sample]])
        return found

    # Idempotency

    def answer(self, principal: str, key: str) -> StoredAnswer | None:
        row = self._db.execute(
            "SELECT digest, body, created_at FROM idempotency WHERE principal = ? AND key = ?", (principal, key)
        ).fetchone()
        return StoredAnswer(*row) if row else None

    def put_answer(self, principal: str, key: str, replay: StoredAnswer) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
            (principal, key, replay.digest, replay.body, replay.created_at),
        )

    def drop_answers(self, before: str) -> None:
        self._db.execute("DELETE FROM idempotency WHERE created_at < ?", (before,))


def _normal(name: str) -> str:
    return " ".join(name.casefold().split())


def _selector(clauses: str) -> Selector:
    return tuple(tuple(clause) for clause in json.loads(clauses))


def _fields(row: Attribute | Relation | Note) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in row.__slots__}
    return fields | {"labels": json.dumps(row.labels) if row.labels else None}


def _labels(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()
