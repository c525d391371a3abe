"""Finds what changed in a table of MySQL or MariaDB since it was read in full, by digests that the server computes.

Neither shows which rows a transaction wrote. So a digest of its id assigns every row to a span, and the server adds up
digests of id and payload, span by span. If the sum of a span has changed, all its rows are read. Some of them have not
changed, which does no harm. Every round costs the server one pass over the ids and payloads, and no vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from spectron_migrate.fast_json import loads
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import Changed
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.stores.qdrant_pickle import UUID_TEXT
from spectron_migrate.records import Memory

MOST_CHANGED = 50_000
"""If more rows than this would be read, everything is read."""
MOST_BYTES = 32 << 20
"""Also if they are larger than this in bytes, because they are held in memory."""
_SPAN = 64
"""About how many rows a span has."""
_MOST_SPANS = 1 << 14
_ASKED = 500
"""How many spans one query reads."""

Rows = list[tuple[Any, ...]]
Ask = Callable[..., Rows]
"""Runs a statement with its values."""

BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


def spans_for(rows: int) -> int:
    """How many spans there are for this many rows."""
    return max(1, min(_MOST_SPANS, rows // _SPAN))


def span_of(spans: int) -> str:
    """The number of a row's span, in SQL."""
    return f"mod(crc32(id), {spans})"


def sums(table: str, spans: int) -> str:
    """A query for the number of rows of each span, and the sum of their digests in two halves."""
    whole = "md5(concat(md5(id), coalesce(md5(payload), '')))"
    half = "bit_xor(CAST(conv({}, 16, 10) AS UNSIGNED))"
    return (
        f"SELECT {span_of(spans)} AS span, count(*), {half.format(f'left({whole}, 16)')},"
        f" {half.format(f'right({whole}, 16)')} FROM {table} GROUP BY span"
    )


class KnownRows:
    """The ids of all rows by span, and the sum of each span."""

    def __init__(self, spans: int) -> None:
        self.spans = spans
        self.sums: dict[int, tuple[int, ...]] = {}
        """For each span its number of rows, and both halves of the sum of their digests."""
        self._packed: dict[int, bytearray] = {}
        self._are_uuids = True

    def add(self, rows: Iterable[tuple[int, str]]) -> None:
        """Add rows, each by its span and its id."""
        for span, row_id in rows:
            if self._are_uuids and not UUID_TEXT.fullmatch(row_id):
                self._keep_texts()
            self._packed.setdefault(span, bytearray()).extend(self._pack(row_id))

    def ids(self, span: int) -> list[str]:
        """The ids of a span."""
        packed = self._packed.get(span, bytearray())
        if not self._are_uuids:
            return [json.loads(line) for line in packed.splitlines()]
        digits = packed.hex()
        uuids = (digits[at : at + 32] for at in range(0, len(digits), 32))
        return [f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" for one in uuids]

    def put(self, span: int, ids: Sequence[str], found: tuple[int, ...] | None) -> None:
        """Set the ids and the sum of a span; None for a span without rows."""
        self._packed.pop(span, None)
        self.add((span, one) for one in ids)
        if found is None:
            self.sums.pop(span, None)
        else:
            self.sums[span] = found

    def _pack(self, row_id: str) -> bytes:
        return bytes.fromhex(row_id.replace("-", "")) if self._are_uuids else json.dumps(row_id).encode() + b"\n"

    def _keep_texts(self) -> None:
        by_span = {span: self.ids(span) for span in self._packed}
        self._are_uuids = False
        self._packed = {span: bytearray(b"".join(map(self._pack, ids))) for span, ids in by_span.items()}


class MySqlChanges:
    """Reads what changed in one table."""

    def __init__(
        self,
        ask: Ask,
        end: Callable[[], None],
        close: Callable[[], None],
        table: str,
        known: KnownRows,
        history: HistoryFile | None,
    ) -> None:
        """`end` ends a transaction; `close` closes the connection, which is taken over with `history`."""
        self.history = history
        self._ask = ask
        self._end = end
        self._close = close
        self._table = table
        self._known = known

    def changed(self, *, now: datetime) -> Changed | None:
        """See `ChangesReader.changed`. Reads only rows of spans in which something changed."""
        import pymysql

        retimed = self.history.changed() if self.history is not None else frozenset()
        if retimed is None:
            return None
        try:
            with self._snapshot():
                found = by_span(self._ask(sums(self._table, self._known.spans)))
                other = list({span for span, _ in found.items() ^ self._known.sums.items()})
                rows = self._rows(other) if self._most(other, found) <= MOST_CHANGED else None
        except pymysql.MySQLError:
            return None
        if rows is None:
            return None
        memories = [self._memory(row_id, text, now) for _, row_id, text in rows]
        if None in memories:
            return None
        there: dict[int, list[str]] = {span: [] for span in other}
        for span, row_id, _ in rows:
            there[span].append(row_id)
        gone = [one for span in other for one in set(self._known.ids(span)).difference(there[span])]
        for span in other:
            self._known.put(span, there[span], found.get(span))
        count = sum(one[0] for one in found.values())
        return Changed([memory for memory in memories if memory is not None], gone, retimed, count)

    def close(self) -> None:
        """Close the connection and the history."""
        self._close()
        if self.history is not None:
            self.history.close()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._ask(BEGIN)
        try:
            yield
        finally:
            self._end()

    def _most(self, spans: Sequence[int], found: Mapping[int, tuple[int, ...]]) -> int:
        """The most rows that these spans have or had."""
        before = self._known.sums
        return sum(max(before.get(span, (0,))[0], found.get(span, (0,))[0]) for span in spans)

    def _rows(self, spans: Sequence[int]) -> list[tuple[int, str, str | None]] | None:
        """The rows of these spans; None if they are too large."""
        rows: list[tuple[int, str, str | None]] = []
        size = 0
        number = span_of(self._known.spans)
        for begin in range(0, len(spans), _ASKED):
            part = spans[begin : begin + _ASKED]
            marks = ", ".join(["%s"] * len(part))
            sql = f"SELECT {number}, id, payload FROM {self._table} WHERE {number} IN ({marks})"
            for span, row_id, text in self._ask(sql, *part):
                size += len(text or "")
                rows.append((int(span), row_id, text))
            if size > MOST_BYTES:
                return None
        return rows

    def _memory(self, row_id: str, text: str | None, now: datetime) -> Memory | None:
        """The memory of a row. None if it is no memory, because only a reading of everything reports such rows."""
        try:
            payload = loads(text) if isinstance(text, str | bytes) else text
        except (ValueError, RecursionError):
            return None
        memory = from_payload(row_id, payload if isinstance(payload, dict) else {}, now=now)
        return memory if isinstance(memory, Memory) and memory.id == row_id else None


def by_span(rows: Rows) -> dict[int, tuple[int, ...]]:
    """The result of a query of `sums`, by span; raises TypeError if the server does not compute them."""
    return {int(span): tuple(map(int, rest)) for span, *rest in rows}
