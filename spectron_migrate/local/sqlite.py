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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from spectron_migrate.local.extracted import ExtractedTables
from spectron_migrate.local.items import in_region
from spectron_migrate.local.rows import ApiKey, Erased, Principal, Region, ScopeNode, Session, StoredAnswer, Turn
from spectron_migrate.local.schema import prepare
from spectron_migrate.local.scopes import Selector

_SESSIONS = 10_000
"""Sessions cached in memory: a write reads its session twice, and sessions never change."""


class SqliteStore(ExtractedTables):
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


def _selector(clauses: str) -> Selector:
    return tuple(tuple(clause) for clause in json.loads(clauses))
