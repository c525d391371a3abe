"""Compares all of Mem0 with the ledger while the rounds of following go on.

Reading a large Mem0 takes minutes. Changes made in the meantime do not wait for it, because this reading writes no dump
and holds no lock. Each memory is compared with the ledger as it is read. Those that differ are compared again after a
round that began after the reading ended: by then the ledger has everything that Mem0 held during the reading, unless a
round missed it. A memory that a scan changed in the ledger since the reading began may be newer there; it is left to
the next comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from spectron_migrate.errors import Incomplete, Interrupted
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.pending import is_decided_older
from spectron_migrate.ledger.read.memories import NewestText, newest_scan, newest_texts, planned_since
from spectron_migrate.ledger.schema import UNDECIDED
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.mem0.seen_ids import NumberSet
from spectron_migrate.migration.changes import Settling
from spectron_migrate.migration.differences import NAMED, Differences
from spectron_migrate.migration.passes import read_beside
from spectron_migrate.records import Memory, Skipped, counted, digest, format_time, reason_key
from spectron_migrate.reporter import Reporter
from spectron_migrate.state.store import StateStore

MOST_CHANGED = 50_000
"""If more memories than this change during a reading, or differ, the comparison proves nothing."""
_BATCH = 100
"""How many memories are looked up at a time; a text may be large."""


@dataclass(frozen=True, slots=True)
class ComparedBeside:
    """The result of a comparison beside the rounds."""

    as_of: str
    """When the reading began."""
    compared: Differences
    quiet: bool = False
    """Always false: rounds went on in the meantime, so nothing shows that Mem0 stood still."""


class BesideComparison:
    """One reading of all of Mem0, compared with the ledger; `read` runs in a thread of its own."""

    def __init__(
        self,
        state: Path | StateStore,
        open_reader: Callable[[datetime], Reader],
        *,
        settle_s: float,
        reporter: Reporter,
        now: Callable[[], datetime],
        first_seen: Mapping[str, str] | None = None,
    ) -> None:
        """`open_reader` and `settle_s` as in `CatchUpSettings`; `now` with its zone. `first_seen`: that of the
        comparison before.

        `reporter` is called in the thread that runs `read`.
        """
        self._state = state
        self._open_reader = open_reader
        self._settle_s = settle_s
        self._reporter = reporter
        self._now = now
        self.first_seen = dict(first_seen or {})
        """When memories with a time in the future were first seen, by id; see `Settling`."""
        self._scan = 0
        """The newest scan that was planned when the reading began."""
        self._stopped = False
        self._rows = _ComparedRows(lambda: self._stopped)
        self.began = ""
        self.ended = ""
        """When the reading began and ended, as `format_time` writes it; empty before."""

    def stop(self) -> None:
        """End `read` with Interrupted; may be called from a signal handler."""
        self._stopped = True

    def read(self) -> None:
        """Read all of Mem0. Raises Incomplete if something of it is missing, Unreachable, and Interrupted."""
        self.began = format_time(self._now())
        with Ledger.open_for_reading(self._state) as ledger:
            self._scan = newest_scan(ledger)  # before the store is opened, because opening some stores copies them
            self._rows.ledger = ledger
            with self._open_reader(self._now()) as reader:
                self._read_from(reader)
        self.ended = format_time(self._now())

    def _read_from(self, reader: Reader) -> None:
        result = read_beside(reader, self._rows, self._reporter)
        self._rows.compare()
        if result.complete is False:
            read = counted(self._rows.distinct_rows(), "memory")
            of = f" of {result.native_count:,}" if result.native_count is not None else ""
            why = f", then: {result.interrupted}" if result.interrupted else ""
            raise Incomplete(f"Mem0 could not be read in full ({read}{of}{why})", hint="nothing was compared with it")

    def conclude(self) -> ComparedBeside | None:
        """What differs between this reading and the ledger; None if too much changed in the meantime to tell.

        Call after a round that began when this reading had ended.
        """
        rows = self._rows
        if len(rows.differing) > MOST_CHANGED:
            return None
        settling = Settling(self.began, self._settle_s, self.first_seen)
        with Ledger.open_for_reading(self._state) as ledger:
            living, later = planned_since(ledger, self._scan, most=MOST_CHANGED)
            if later is None:
                return None
            left = list(rows.differing.values())
            waiting, missing, undecided = 0, list[str](), list[str]()
            for begin in range(0, len(left), _BATCH):
                batch = left[begin : begin + _BATCH]
                texts = newest_texts(ledger, [memory.id for memory in batch])
                rows.note_found(memory_id for memory_id, known in texts.items() if known.tombstoned_at is None)
                for memory in batch:
                    known = texts.get(memory.id)
                    if memory.id in later:
                        continue  # it may be newer there
                    if known is not None and (_is_equal(memory, known) or is_decided_older(ledger, memory, None)):
                        undecided += [memory.id] if known.state in UNDECIDED else []
                    elif not settling.is_settled(memory):
                        waiting += 1  # it may have been replaced or deleted before a round could send it
                    else:
                        missing.append(memory.id)
        self.first_seen = settling.first_seen
        extra = living - rows.count_found(except_for=later)
        named = tuple([*missing, *undecided][:NAMED])
        found = Differences(rows.memories.count, waiting, len(missing), len(undecided), extra, named)
        return ComparedBeside(self.began, found)


class _Ids:
    """A set of ids that keeps 8 bytes of each."""

    def __init__(self) -> None:
        self._hashes = NumberSet()
        self.count = 0

    def add(self, ids: Iterable[str]) -> None:
        hashes = set(map(hash, ids))
        new = hashes - self._hashes.among(hashes)
        self._hashes.add(new)
        self.count += len(new)

    def count_among(self, ids: Iterable[str]) -> int:
        """How many of these ids are in the set."""
        return len(self._hashes.among(set(map(hash, ids))))


class _ComparedRows:
    """A `passes.RowSink` that compares rows with the ledger as they come, and keeps those that differ."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        self.ledger: Ledger | None = None
        """The ledger that rows are compared with; set before the first row."""
        self.begin_pass()

    def begin_pass(self) -> None:
        """Forget the rows so far: all of them follow once more."""
        self.memories = _Ids()
        self.differing: dict[str, Memory] = {}
        """Memories that differed from the ledger when they were read."""
        self._found = _Ids()
        """Memories that were read and that are alive in the ledger."""
        self._skipped = _Ids()
        self._without_id = 0
        self._left_out: Counter[str] = Counter()
        self._batch: list[tuple[Memory, tuple[str, int] | None]] = []

    def add(self, row: Memory | Skipped, *, text_at: tuple[str, int] | None = None) -> None:
        """One row; `text_at`: when its text came to be according to Mem0's history."""
        if isinstance(row, Skipped):
            self._skip(row)
            return
        self._batch.append((row, text_at))
        if len(self._batch) >= _BATCH:
            self.compare()

    def distinct_rows(self) -> int:
        """How many different rows came in this pass."""
        self.compare()
        return self.memories.count + self._skipped.count + self._without_id

    def left_out(self) -> dict[str, int]:
        """Rows with content that are no memories, counted by reason."""
        return dict(self._left_out)

    def compare(self) -> None:
        """Compare the rows that came since the last call. Raises Interrupted if the reading is to end."""
        batch, self._batch = self._batch, []
        if self._is_stopped():
            raise Interrupted("interrupted")
        if not batch or self.ledger is None:
            return
        texts = newest_texts(self.ledger, [memory.id for memory, _ in batch])
        self.memories.add(memory.id for memory, _ in batch)
        self.note_found(memory_id for memory_id, known in texts.items() if known.tombstoned_at is None)
        for memory, text_at in batch:
            known = texts.get(memory.id)
            if known is not None and _is_equal(memory, known) and known.state not in UNDECIDED:
                self.differing.pop(memory.id, None)
            elif len(self.differing) <= MOST_CHANGED:
                self.differing[memory.id] = _with_time(memory, text_at)

    def note_found(self, ids: Iterable[str]) -> None:
        """Note memories that are alive in the ledger."""
        self._found.add(ids)

    def count_found(self, *, except_for: Collection[str]) -> int:
        """How many of the memories that were read are alive in the ledger."""
        return self._found.count - self._found.count_among(except_for)

    def _skip(self, row: Skipped) -> None:
        if row.id:
            self._skipped.add([row.id])
        else:
            self._without_id += 1
        if row.has_content:
            self._left_out[reason_key(row.reason)] += 1


def _is_equal(memory: Memory, known: NewestText) -> bool:
    return known.tombstoned_at is None and known.digest == digest(memory.memory)


def _with_time(memory: Memory, known: tuple[str, int] | None) -> Memory:
    """The memory as a dump holds it: with the time of its text from Mem0's history, if the history has it."""
    if known is None:
        return memory
    return replace(memory, text_at=known[0], history_row=known[1], text_at_source="history")
