"""Finds what changed in a table of Postgres since it was read in full: rows of later transactions, and deleted rows.

Postgres notes in every version of a row the transaction that wrote it (`xmin`), and an update is a new version. A
snapshot has a horizon (`txid_snapshot_xmin`): all transactions before it had ended when it was taken. So a row that was
written before the horizon of the last reading was already there, unchanged. All other rows are read. Some of them have
not changed, which does no harm.

In two cases that is wrong, and everything has to be read. A server that crashed may assign the numbers of its last
transactions again, so the connection must still be the one of the last reading: a crash ends all connections. And a
table that was truncated, or replaced by another one, has another file.

The counters of `pg_stat_all_tables` are not used, because they lag behind a transaction by up to a minute, and a crash
loses them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import Changed
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.records import Memory

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

MOST_CHANGED = 50_000
"""If more rows than this changed, everything is read."""
MOST_BYTES = 32 << 20
"""Also if they are larger than this in bytes, because they are held in memory."""
_MOST_TRANSACTIONS = 1 << 30
"""After more transactions than this, the 32 bits of `xmin` might be those of an older one."""
_SPAN = 256
"""The least number of ids in a span."""
_MOST_SPANS = 4096
_MOST_SPANS_OF_TEXTS = 64
"""Fewer spans for ids that are texts, because looking one up among their bounds takes time for each."""
_MOST_SINGLE = 200
"""Up to this many spans, the ids are listed with one query for each span."""
_PAGE = 1000

_TABLE = """
SELECT c.oid::bigint, pg_relation_filenode(c.oid)::bigint, format_type(i.atttypid, NULL), pg_backend_pid(),
  (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), pg_postmaster_start_time()::text
FROM pg_class c JOIN pg_attribute i ON i.attrelid = c.oid AND i.attname = 'id' LEFT JOIN pg_am m ON m.oid = c.relam
WHERE c.oid = to_regclass(%s) AND c.relkind = 'r' AND coalesce(m.amname, 'heap') = 'heap'
  AND NOT c.relhassubclass AND NOT row_security_active(c.oid) AND EXISTS (
    SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
      AND x.indnkeyatts = 1 AND x.indkey[0] = i.attnum AND x.indpred IS NULL)
"""
"""Finds a table whose rows have an `xmin` and a unique id, and are hidden from nobody; with the reading session."""


@dataclass(frozen=True, slots=True)
class TableMark:
    """The table, server and session of a snapshot, and the transactions that it shows."""

    table: tuple[Any, ...]
    """Numbers of the table and of its file, and the type of its ids; then process and start of the session."""
    snapshot: str
    """Empty on a standby server, where the text leaves running transactions out."""
    horizon: int
    """All transactions before it had ended."""
    following: int
    """No transaction from it on had begun."""

    @property
    def id_type(self) -> str:
        return str(self.table[2])


def table_mark(db: psycopg.Connection[Any], name: str) -> TableMark | None:
    """The mark of the open transaction, which must have read the table; `name` as in SQL.

    None for a view, a foreign or partitioned table, or anything else whose rows do not show which transaction wrote
    them.
    """
    table = db.execute(_TABLE, (name,)).fetchone()
    found = db.execute(
        "SELECT s::text, txid_snapshot_xmin(s), txid_snapshot_xmax(s), pg_is_in_recovery()"
        " FROM txid_current_snapshot() s"
    ).fetchone()
    if table is None or table[4] is None or found is None:
        return None
    text, horizon, following, is_standby = found
    return TableMark(tuple(table), "" if is_standby else text, horizon, following)


class KnownIds:
    """The ids of all rows, cut into spans in the server's order, so that it can count them span by span."""

    def __init__(self, id_type: str, count: int) -> None:
        """`count`: about how many ids there will be."""
        self.bounds: list[str] = []
        """The first id of each span but span 0, which is for ids before all of them."""
        self._is_uuid = id_type == "uuid"
        self._size = max(_SPAN, -(-count // (_MOST_SPANS if self._is_uuid else _MOST_SPANS_OF_TEXTS)))
        self._rest: list[str] = []
        self._spans = [self._packed([])]
        self._counts = [0]

    def add(self, ids: Sequence[str]) -> None:
        """Add the next ids, in the server's order."""
        self._rest.extend(ids)
        while len(self._rest) >= self._size:
            self._cut(self._size)

    def finish(self) -> None:
        """Finish: no more ids follow."""
        if self._rest:
            self._cut(len(self._rest))

    def counts(self) -> list[int]:
        """The number of ids in each span."""
        return list(self._counts)

    def ids(self, span: int) -> list[str]:
        """The ids of a span."""
        packed = self._spans[span]
        if not self._is_uuid:
            return list(json.loads(packed))
        digits = packed.hex()
        return [str(UUID(digits[at : at + 32])) for at in range(0, len(digits), 32)]

    def set_ids(self, span: int, ids: Sequence[str]) -> None:
        """Replace the ids of a span."""
        self._spans[span] = self._packed(ids)
        self._counts[span] = len(ids)

    def _cut(self, size: int) -> None:
        part, self._rest = self._rest[:size], self._rest[size:]
        self.bounds.append(part[0])
        self._spans.append(self._packed(part))
        self._counts.append(size)

    def _packed(self, ids: Sequence[str]) -> bytes:
        return bytes.fromhex("".join(ids).replace("-", "")) if self._is_uuid else json.dumps(ids).encode()


class _Uncertain(Exception):
    """It is not certain what changed."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A row written by a transaction that the last reading may not have seen."""

    id: str
    payload: Any
    span: int


class PgVectorChanges:
    """Reads what changed in one table, by the connection that read the whole table."""

    def __init__(
        self,
        db: psycopg.Connection[Any],
        sql: Callable[[str], Composed],
        payload_of: Callable[[str | None], Any],
        mark: TableMark,
        known: KnownIds,
        history: HistoryFile | None,
    ) -> None:
        """`db` and `history` are taken over.

        `mark` and `known` are from the reading of everything. `sql` puts the names of table and payload into a
        statement; `payload_of` returns the payload as Mem0 stored it.
        """
        self.history = history
        self._db = db
        self._sql = sql
        self._payload_of = payload_of
        self._mark = mark
        self._known = known
        self._name = sql("{table}").as_string(db)
        self._bounds = f"%s::{mark.id_type}[]"

    def changed(self, *, now: datetime) -> Changed | None:
        """See `ChangesReader.changed`. Reads only payloads of rows that were written."""
        import psycopg

        retimed = self.history.changed() if self.history is not None else frozenset()
        if retimed is None:
            return None
        try:
            with self._snapshot():
                return self._changed(retimed, now)
        except (psycopg.Error, _Uncertain):
            return None

    def close(self) -> None:
        """Close the connection and the history."""
        self._db.close()
        if self.history is not None:
            self.history.close()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Begin a snapshot, after taking the lock that every reading takes: so the table is seen as of the snapshot."""
        self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            self._db.execute(self._sql("LOCK TABLE {table} IN ACCESS SHARE MODE"))
            yield
        finally:
            if not self._db.closed and not self._db.broken:
                self._db.execute("ROLLBACK")

    def _changed(self, retimed: frozenset[str], now: datetime) -> Changed:
        mark, before = table_mark(self._db, self._name), self._mark
        if mark is None or mark.table != before.table or mark.following - before.horizon > _MOST_TRANSACTIONS:
            raise _Uncertain
        if mark.snapshot and mark.snapshot == before.snapshot:
            return Changed([], [], retimed, sum(self._known.counts()))
        written = self._written()
        memories = [self._memory(row, now) for row in written]
        count = int(self._all("SELECT count(*) FROM {table}")[0][0])
        gone = self._update(written, count)
        self._mark = mark
        return Changed(memories, gone, retimed, count)

    def _memory(self, row: _Written, now: datetime) -> Memory:
        """The memory of a row.

        Raises _Uncertain if it is no memory, because only a reading of everything reports such rows.
        """
        try:
            payload = json.loads(row.payload) if isinstance(row.payload, str) else row.payload
        except (ValueError, RecursionError):
            raise _Uncertain from None
        memory = from_payload(row.id, payload if isinstance(payload, dict) else {}, now=now)
        if not isinstance(memory, Memory) or memory.id != row.id:
            raise _Uncertain
        return memory

    def _written(self) -> list[_Written]:
        sql = (
            f"SELECT id::text, {{payload}}::text, width_bucket(id, {self._bounds}) FROM {{table}}"
            " WHERE age(xmin) BETWEEN 0 AND (SELECT age(%s::xid))"
        )
        rows: list[_Written] = []
        size = 0
        with self._db.cursor(name="written") as cursor:
            cursor.itersize = _PAGE
            for row_id, payload, span in cursor.execute(
                self._sql(sql), (self._known.bounds, str(self._mark.horizon % (1 << 32)))
            ):
                size += len(payload or "")
                if len(rows) == MOST_CHANGED or size > MOST_BYTES:
                    raise _Uncertain
                rows.append(_Written(row_id, self._payload_of(payload), span))
        return rows

    def _update(self, written: Sequence[_Written], count: int) -> list[str]:
        """Bring `known` up to date; returns the ids of deleted rows. `count`: how many rows there are now."""
        by_span: dict[int, list[str]] = {}
        for row in written:
            by_span.setdefault(row.span, []).append(row.id)
        there = {span: set(self._known.ids(span)) for span in by_span}
        expected = self._known.counts()
        for span, ids in by_span.items():
            expected[span] -= len(there[span].intersection(ids))
        lost = sum(expected) + len(written) - count
        if lost < 0:
            raise _Uncertain
        gone: dict[int, set[str]] = {}
        for span, ids in self._shorter(expected, by_span).items() if lost else ():
            gone[span] = set(self._known.ids(span)).difference(ids)
        if sum(map(len, gone.values())) != lost:
            raise _Uncertain
        for span in by_span.keys() | gone.keys():
            ids_now = set(self._known.ids(span)).difference(gone.get(span, ())).union(by_span.get(span, ()))
            self._known.set_ids(span, sorted(ids_now))
        return [one for ids in gone.values() for one in ids]

    def _shorter(self, expected: Sequence[int], written: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
        """The current ids of each span that has fewer ids than expected, apart from written rows."""
        bounds = self._known.bounds
        counted = dict(
            self._all(f"SELECT width_bucket(id, {self._bounds}), count(*) FROM {{table}} GROUP BY 1", (bounds,))
        )
        short = [at for at, number in enumerate(expected) if counted.get(at, 0) < number + len(written.get(at, ()))]
        if len(short) > _MOST_SINGLE:
            sql = f"SELECT id::text, width_bucket(id, {self._bounds}) FROM {{table}}"
            found: dict[int, list[str]] = {span: [] for span in short}
            for row_id, span in self._all(
                sql + f" WHERE width_bucket(id, {self._bounds}) = ANY(%s)", (bounds, bounds, short)
            ):
                found[span].append(row_id)
            return found
        return {span: self._ids_of(span) for span in short}

    def _ids_of(self, span: int) -> list[str]:
        bounds, limits, values = self._known.bounds, ["true"], []
        if span:
            limits.append("id >= {}")
            values.append(bounds[span - 1])
        if span < len(bounds):
            limits.append("id < {}")
            values.append(bounds[span])
        where = " AND ".join(limits).format(*[f"%s::{self._mark.id_type}"] * len(values))
        return [row_id for (row_id,) in self._all(f"SELECT id::text FROM {{table}} WHERE {where}", tuple(values))]

    def _all(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(self._sql(text), values or None).fetchall()
