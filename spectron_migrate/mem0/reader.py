"""The interface that every reader of Mem0 implements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo
from spectron_migrate.reporter import NullReporter, Reporter

Sleep = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Changed:
    """Everything that changed in Mem0 since the previous reading."""

    memories: Sequence[Memory]
    """Memories that are new or whose rows were written again."""
    gone: Sequence[str]
    """Ids of memories that are not there any more."""
    retimed: Collection[str]
    """Ids of memories about which Mem0's history says something new, even if their rows did not change."""
    native_count: int
    """How many rows the store has now."""


class ChangesReader(Protocol):
    """Reads, again and again, what changed in a Mem0 that was read in full.

    It never writes or takes locks there. If it is not certain of anything, it returns nothing.
    """

    @property
    def history(self) -> HistorySource | None:
        """Mem0's own record of changes, as of the last call of `changed`."""

    def changed(self, *, now: datetime) -> Changed | None:
        """What changed since the last call, or since everything was read; `now` decides which memories have expired.

        None if that is not certain: then everything has to be read, and this object cannot be used any more. The same
        holds if it raises.
        """

    def close(self) -> None:
        """Close files and connections."""


class HistorySource(Protocol):
    """Mem0's own record of changes."""

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """When the memory last changed to this text, and the number of that event; None if unknown."""

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event, each with its `memory_id`."""

    def close(self) -> None:
        """Close files and connections."""


class Reader(Protocol):
    """Reads all of one Mem0, and says how much there is. It never writes or takes locks there.

    `rows` may be called again for another pass. A reader is a context manager; `close` may be called twice.
    """

    info: SourceInfo
    history: HistorySource | None
    """Mem0's own record of changes, if it can be reached."""
    rereads: bool
    """True: an id that comes twice is one row read twice (a store). False: it is two copies (files)."""
    unproven: str
    """After `rows` ended: why it cannot be shown that nothing is missing; empty if it can, or if something is."""
    notes: list[str]
    """What the user should know about the last reading."""
    reporter: Reporter
    """Receives messages about steps that take long or cost requests, before they begin."""

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read less if the store can select. The caller applies the filters again in any case.

        Rows that changed before `since` (a time as `format_time` writes it) may be left out.
        """

    def resume_in(self, folder: Path) -> datetime | None:
        """Save progress in this folder, so that the scan can be resumed.

        Returns the start of the scan that is resumed, if any.
        """

    def discard_progress(self) -> None:
        """Remove saved progress, because the scan is in the dump."""

    def native_count(self) -> int | None:
        """How many rows `rows` has to yield according to the store itself; None if it cannot say."""

    def progress_total(self) -> int | None:
        """Roughly the value of `position` at the end, for a progress bar; None if unknown."""

    @property
    def position(self) -> int | None:
        """How far `rows` has come, if that is not counted in rows."""

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row as a memory, or as skipped with a reason. A row that changes during the scan may come twice."""

    def rows_beside(self) -> Iterator[Memory | Skipped] | None:
        """Every row that is there from the beginning to the end, as it was at some moment in between.

        Unlike `rows`, it never keeps the application from writing. None if `rows` never does either.
        """

    def missing(self) -> int | None:
        """After `rows` ended: how many rows the store held at that time that `rows` did not yield.

        None if only a comparison with `native_count` can tell.
        """

    def relations(self) -> Iterator[Json]:
        """Graph relations stored beside the memories, unchanged."""

    def changes(self) -> ChangesReader | None:
        """After `rows` ended: a reader of later changes, which takes `history` over; None if they cannot be told."""

    def close(self) -> None:
        """Close files and connections."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ReaderBase:
    """Defaults for readers: no narrowing, no saved progress, completeness by counts, no relations."""

    history: HistorySource | None = None
    rereads = True

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.unproven = ""
        self.reporter: Reporter = NullReporter()

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read everything; the caller filters."""

    def resume_in(self, folder: Path) -> datetime | None:
        return None

    def discard_progress(self) -> None:
        """Does nothing, because there is none."""

    def progress_total(self) -> int | None:
        return None

    @property
    def position(self) -> int | None:
        return None

    def rows_beside(self) -> Iterator[Memory | Skipped] | None:
        return None

    def missing(self) -> int | None:
        return None

    def relations(self) -> Iterator[Json]:
        return iter(())

    def changes(self) -> ChangesReader | None:
        return None

    def close(self) -> None:
        """Close the history, if there is one."""
        if self.history is not None:
            self.history.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
