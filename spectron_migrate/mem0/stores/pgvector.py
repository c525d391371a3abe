"""Reads a table of pgvector, or of Supabase's vecs, with SQL: one snapshot, page by page in the order of its key.

The snapshot makes the count exact while an application writes, and blocks nobody. Mem0's own class would create the
extension and the table on its first query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.mem0.stores.oss_config import VectorStore
from spectron_migrate.records import Memory, Skipped, SourceInfo

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

_PAGE = 1000
EXTRA = "pip install 'spectron-migrate[pgvector]'"


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Where a provider keeps its rows."""

    schema: str | None
    """None: where the connection's search path finds the table."""
    payload: str
    """Name of the payload column."""


LAYOUTS = {"pgvector": TableLayout(None, "payload"), "supabase": TableLayout("vecs", "metadata")}


class PgVectorReader(ReaderBase):
    """Reads one table of memories."""

    def __init__(self, store: VectorStore, info: SourceInfo, *, now: datetime) -> None:
        """Connect and find the table; raises InputError, listing those that exist, if there is no such table."""
        super().__init__()
        self.info = info
        self._now = now
        self._table = store.collection
        self._layout = LAYOUTS[store.provider]
        self._missing: int | None = None
        self._db = _connect(store.settings, info.place)
        try:
            self._check_table()
        except BaseException:
            self._db.close()
            raise

    def native_count(self) -> int:
        """Number of rows in the table now."""
        return int(self._all(self._sql("SELECT count(*) FROM {table}"))[0][0])

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row of the snapshot that begins with the first page."""
        import psycopg

        self._missing = None
        yielded = 0
        first = self._sql("SELECT id::text, {payload}::text FROM {table} ORDER BY id LIMIT {page}")
        following = self._sql("SELECT id::text, {payload}::text FROM {table} WHERE id > %s ORDER BY id LIMIT {page}")
        with self._converted_errors():
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            count = self.native_count()
            page = self._all(first)
            while page:
                yielded += len(page)
                for row_id, payload in page:
                    yield self._row(row_id, payload)
                page = self._all(following, (page[-1][0],))
            self._missing = count - yielded
        finally:
            if self._db.info.transaction_status != psycopg.pq.TransactionStatus.UNKNOWN:
                self._db.execute("ROLLBACK")

    def missing(self) -> int | None:
        """The number of rows in the snapshot that `rows` did not yield."""
        return self._missing

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._db.close()

    def _row(self, row_id: str, payload: str | None) -> Memory | Skipped:
        value = json.loads(payload) if payload is not None else {}
        return from_payload(row_id, value if isinstance(value, dict) else {}, now=self._now)

    def _sql(self, text: str) -> Composed:
        from psycopg import sql

        schema = (self._layout.schema,) if self._layout.schema else ()
        return sql.SQL(text).format(
            table=sql.Identifier(*schema, self._table),
            payload=sql.Identifier(self._layout.payload),
            page=sql.Literal(_PAGE),
        )

    def _all(self, query: Composed | str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._converted_errors():
            return self._db.execute(query, values or None).fetchall()

    def _converted_errors(self) -> _ConvertedErrors:
        return _ConvertedErrors(self.info.place)

    def _check_table(self) -> None:
        """Raise InputError unless the table exists and has an id and a payload."""
        listed = self._all(
            "SELECT table_schema, table_name FROM information_schema.columns "
            f"WHERE column_name IN ('id', '{self._layout.payload}') AND table_schema NOT IN ('pg_catalog') "
            "GROUP BY 1, 2 HAVING count(*) = 2 ORDER BY 1, 2"
        )
        wanted = self._layout.schema
        names = {table for schema, table in listed if wanted in (None, schema)}
        if self._table not in names:
            raise InputError(
                f"there is no table {self._table} in {self.info.place.removesuffix(':' + self._table)}",
                hint=f"tables of memories there: {', '.join(sorted(names)) or 'none at all'}",
            )


class _ConvertedErrors:
    """Converts the driver's errors to ours; its messages contain no password."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import psycopg

        if isinstance(error, psycopg.Error):
            raise _convert(error, self._place) from error


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
    with _ConvertedErrors(place):
        return psycopg.connect(
            str(whole or ""),
            autocommit=True,
            connect_timeout=15,
            application_name="spectron-migrate",
            options="-c default_transaction_read_only=on",
            **parts,
        )


def _convert(error: psycopg.Error, place: str) -> MigrateError:
    import psycopg

    text = " ".join(str(error).split())
    refused = (psycopg.errors.InvalidAuthorizationSpecification, psycopg.errors.InsufficientPrivilege)
    if isinstance(error, refused) or "authentication failed" in text:
        return KeyRefused(f"{place} refuses this user: {text}", hint="the user needs SELECT on the table, no more")
    if isinstance(error, psycopg.OperationalError):
        return Unreachable(f"{place} cannot be reached: {text}", hint="check host, port and network")
    return InputError(f"{place} cannot be read: {text}")
