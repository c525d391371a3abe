"""A table of pgvector, or of Supabase's vecs, with SQL: one snapshot, page by page in the order of its key.

The snapshot makes the count exact while an application writes, and blocks nobody. Mem0's own class would create the
extension and the table on its first query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.stores.listed import ListedStore, Row
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.mem0.stores.pgvector_changes import KnownIds, PgVectorChanges, TableMark, table_mark
from spectron_migrate.mem0.stores.supabase_rest import without_stamps

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

_PAGE = 1000
EXTRA = "pip install 'spectron-migrate[pgvector]'"


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Where a provider keeps its rows."""

    schema: str | None
    """The schema; None for the one in which the connection's search path finds the table."""
    payload: str
    """Name of the payload column."""


LAYOUTS = {"pgvector": TableLayout(None, "payload"), "supabase": TableLayout("vecs", "metadata")}
_OF_TYPESCRIPT = TableLayout(None, "metadata")
"""Supabase in Mem0 for TypeScript: the user's own table, which `tableName` names."""


class PgVector(ListedStore):
    """One table of memories."""

    kind = "table"

    def __init__(self, store: VectorStore, place: str) -> None:
        """Connect; `place` names the table in messages."""
        super().__init__(store.collection, f"in {place.removesuffix(f':{store.collection}')}")
        self._place = place
        is_of_typescript = store.provider == "supabase" and bool(store.settings.get("table_name"))
        self._layout = _OF_TYPESCRIPT if is_of_typescript else LAYOUTS[store.provider]
        self._known: tuple[TableMark, KnownIds] | None = None
        """What the last reading of everything saw, if later changes can be told."""
        self._is_taken_over = False
        self._db = _connect(store.settings, place)

    def exists(self) -> bool:
        return self.name in self.names()

    def names(self) -> list[str]:
        """Tables with an id and a payload."""
        wanted = self._layout.schema
        listed = self._db.execute(
            "SELECT table_schema, table_name FROM information_schema.columns "
            "WHERE column_name IN ('id', %s) AND table_schema NOT IN ('pg_catalog') "
            "GROUP BY 1, 2 HAVING count(*) = 2",
            (self._layout.payload,),
        )
        return [table for schema, table in listed if wanted in (None, schema)]

    def count(self) -> int:
        return int(self._all("SELECT count(*) FROM {table}")[0][0])

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        """One snapshot, in the order of its key."""
        import psycopg

        self._known = None
        columns = "SELECT id::text, {payload}::text FROM {table} "
        self._begin()
        try:
            self.held = self.count()
            mark = table_mark(self._db, self._sql("{table}").as_string(self._db))
            known = KnownIds(mark.id_type if mark is not None else "", self.held)
            page = self._all(columns + "ORDER BY {table}.id LIMIT {page}")
            while page:
                known.add([row_id for row_id, _ in page])
                if self._layout is _OF_TYPESCRIPT:
                    page = [(row_id, self._payload(text)) for row_id, text in page]
                yield [Row(row_id, row_id, payload) for row_id, payload in page]
                page = self._all(columns + "WHERE id > %s ORDER BY {table}.id LIMIT {page}", (page[-1][0],))
            known.finish()
            self._known = (mark, known) if mark is not None else None
        finally:
            if self._db.info.transaction_status != psycopg.pq.TransactionStatus.UNKNOWN:
                self._db.execute("ROLLBACK")

    def may_write(self) -> bool:
        rights = "has_table_privilege(c.oid, 'INSERT') OR has_table_privilege(c.oid, 'DELETE')"
        found = self._db.execute(
            f"SELECT {rights} FROM pg_class c WHERE c.oid = to_regclass(%s)",
            (self._sql("{table}").as_string(self._db),),
        )
        return any(row[0] for row in found)

    def explained(self, error: Exception) -> MigrateError | None:
        import psycopg

        return _convert(error, self._place) if isinstance(error, psycopg.Error) else None

    def changes(self, history: HistoryFile | None) -> ChangesReader | None:
        """Changes are read by the same connection, which is taken over; see `pgvector_changes`."""
        if self._known is None:
            return None
        self._is_taken_over = True
        return PgVectorChanges(self._db, self._sql, self._payload, *self._known, history)

    def close(self) -> None:
        if not self._is_taken_over:
            self._db.close()

    def _begin(self) -> None:
        """Begin a snapshot, after taking the lock that every reading takes.

        TRUNCATE and commands that rewrite a table hide its rows from older snapshots. So a snapshot taken while such a
        transaction is open would show an empty table, and all memories would count as deleted.
        """
        import psycopg

        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        self._db.execute(begin)
        try:
            self._db.execute(self._sql("LOCK TABLE {table} IN ACCESS SHARE MODE"))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType):
            self._db.execute("ROLLBACK")  # foreign tables cannot be locked, rights on columns do not suffice
            self._db.execute(begin)

    def _payload(self, text: str | None) -> Any:
        return text if text is None or self._layout is not _OF_TYPESCRIPT else without_stamps(json.loads(text))

    def _all(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(self._sql(text), values or None).fetchall()

    def _sql(self, text: str) -> Composed:
        from psycopg import sql

        schema = (self._layout.schema,) if self._layout.schema else ()
        return sql.SQL(text).format(
            table=sql.Identifier(*schema, self.name),
            payload=sql.Identifier(self._layout.payload),
            page=sql.Literal(_PAGE),
        )


def _connect(settings: Mapping[str, Any], place: str) -> psycopg.Connection[Any]:
    try:
        import psycopg
    except ImportError as error:
        raise InputError("reading pgvector needs psycopg, which is not installed", hint=EXTRA) from error
    whole = settings.get("connection_string")
    parts = {name: settings[name] for name in ("user", "password", "host", "port", "dbname") if settings.get(name)}
    if not whole:
        parts.setdefault("dbname", "postgres")
    if settings.get("sslmode"):
        parts["sslmode"] = settings["sslmode"]
    if whole:
        parts = {name: value for name, value in parts.items() if name == "sslmode"}
    try:
        return psycopg.connect(
            str(whole or ""),
            autocommit=True,
            connect_timeout=15,
            application_name="spectron-migrate",
            options="-c default_transaction_read_only=on",
            **parts,
        )
    except psycopg.Error as error:
        raise _convert(error, place) from error


def _convert(error: psycopg.Error, place: str) -> MigrateError:
    """Our error; the driver's messages contain no password."""
    import psycopg

    text = " ".join(str(error).split())
    refused = (psycopg.errors.InvalidAuthorizationSpecification, psycopg.errors.InsufficientPrivilege)
    if isinstance(error, refused) or "authentication failed" in text:
        return KeyRefused(f"{place} refuses this user: {text}", hint="the user needs SELECT on the table, no more")
    if isinstance(error, psycopg.OperationalError):
        return Unreachable(f"{place} cannot be reached: {text}", hint="check host, port and network")
    return InputError(f"{place} cannot be read: {text}")
