"""Reads a source in full: until the number of rows is what the source says it holds, in at most three passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from spectron_migrate.dump.owners_seen import OwnersSeen
from spectron_migrate.errors import Incomplete, Unreachable
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.mem0.unreadable import UnreadableFields
from spectron_migrate.records import Filters, Memory, Skipped
from spectron_migrate.reporter import Reporter

_MOST_PASSES = 3
_REPORT_EVERY = 1000


class RowSink(Protocol):
    """Takes the rows of a source; the writer of a dump is one."""

    def add(self, row: Memory | Skipped, *, text_at: tuple[str, int] | None = None) -> object:
        """One row. `text_at`: when its text came to be according to Mem0's history, and the row that says so."""

    def begin_pass(self) -> None:
        """All rows follow once more."""

    def distinct_rows(self) -> int:
        """How many different rows came in this pass."""

    def left_out(self) -> Mapping[str, int]:
        """How many rows have content that is not among the memories, by reason."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The outcome of reading the source."""

    native_count: int | None
    complete: bool | None
    unreadable: UnreadableFields
    interrupted: str = ""
    """Why it ended before all rows were read; empty if it did not."""


def read_all(reader: Reader, sink: RowSink, reporter: Reporter, seen: OwnersSeen) -> ReadResult:
    """Read until the number of rows is what the store says it holds, in at most three passes."""
    before = reader.native_count()
    for number in range(_MOST_PASSES):
        if number:
            reporter.info("the store changed while it was read; reading it again")
            sink.begin_pass()
        if reader.position is None:
            reporter.stage("reading Mem0", total=reader.progress_total() if before is None else before)
        else:
            reporter.stage("reading the files, in bytes", total=reader.progress_total())
        unreadable = UnreadableFields()
        try:
            _read_once(reader, sink, reporter, unreadable, seen, rows=reader.rows())
        except (Unreachable, Incomplete) as error:
            if not sink.distinct_rows():
                raise
            reporter.warn(error.message)
            return ReadResult(None, False, unreadable, interrupted=error.message)
        after = reader.native_count()
        if _is_complete(reader, sink, before, after):
            complete = None if reader.unproven else True
            return ReadResult(after, False if sink.left_out() else complete, unreadable)
        if reader.missing() is not None or after is None:
            return ReadResult(after, False, unreadable)
        before = after
    return ReadResult(before, False, unreadable)


def read_beside(reader: Reader, sink: RowSink, reporter: Reporter) -> ReadResult:
    """Read while the application writes, for a comparison with what is known of each row.

    Some stores can prove that no row is missing only while the application does not write. No such proof is made here:
    the comparison takes its place.
    """
    seen = OwnersSeen(Filters())
    rows = reader.rows_beside()
    if rows is None:
        return read_all(reader, sink, reporter, seen)
    reporter.stage("reading Mem0", total=reader.native_count())
    unreadable = UnreadableFields()
    _read_once(reader, sink, reporter, unreadable, seen, rows=rows)
    return ReadResult(None, False if sink.left_out() else None, unreadable)


def _read_once(
    reader: Reader,
    sink: RowSink,
    reporter: Reporter,
    unreadable: UnreadableFields,
    seen: OwnersSeen,
    *,
    rows: Iterable[Memory | Skipped],
) -> None:
    history, done, number = reader.history, 0, 0
    for number, row in enumerate(rows, start=1):
        known = None
        if row.__class__ is Memory:
            if "as_given" in row.extra:
                unreadable.add(row)
            if not seen.selects:
                seen.add(row)
            # Only history knows when the text came to be; the times of the row only allow a guess
            known = history.text_at(row.id, row.memory) if history is not None else None
        sink.add(row, text_at=known)
        if number % _REPORT_EVERY == 0:
            position = number if reader.position is None else reader.position
            reporter.advance(position - done)
            done = position
    position = number if reader.position is None else reader.position
    reporter.advance(position - done)


def _is_complete(reader: Reader, sink: RowSink, before: int | None, after: int | None) -> bool:
    missing = reader.missing()
    if missing is not None:
        return missing == 0
    return after is not None and before == after == sink.distinct_rows()
