"""The one interface behind which every kind of Mem0 is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from spectron_migrate.records import Filters, Json, Memory, NullReporter, Reporter, Skipped, SourceInfo

Sleep = Callable[[float], object]


class HistorySource(Protocol):
    """Mem0's own record of changes."""

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """When the memory last changed to this text, and the number of the event; None where unknown."""

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event, each with its `memory_id`."""

    def close(self) -> None:
        """Let go of it."""


class Reader(Protocol):
    """Gives all of one Mem0, and says how much there is; it never writes, locks or constructs there.

    `rows` may be called again for another pass. A reader is a context manager; `close` is harmless twice.
    """

    info: SourceInfo
    history: HistorySource | None
    """Mem0's own record of changes, where it can be reached."""
    rereads: bool
    """An id that comes twice is one row read twice (a store), not two copies of it (files)."""
    notes: list[str]
    """What the user should know of the last reading."""
    reporter: Reporter
    """Told what a person should know before it takes long or costs."""

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read less, where the store can choose; whoever reads filters again in any case.

        `since` is a time in our spelling: rows changed before it need not be given.
        """

    def resume_in(self, folder: Path) -> datetime | None:
        """Keep in the folder what a cut would cost; when the scan began that is gone on with, if there is one."""

    def finished(self) -> None:
        """The scan is in the dump: nothing has to be kept to go on with."""

    def native_count(self) -> int | None:
        """How many rows the store itself says `rows` has to give; None where it cannot say."""

    def extent(self) -> int | None:
        """How much `position` will have moved in the end, about; None where nothing tells. For a bar alone."""

    @property
    def position(self) -> int | None:
        """How far `rows` has come, where that is not counted in rows."""

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every native row as a memory, or as skipped with a reason; a row that moved meanwhile may come twice."""

    def missing(self) -> int | None:
        """After `rows` ended: rows the store held at its end that were not given.

        None where only a comparison of counts can tell.
        """

    def relations(self) -> Iterator[Json]:
        """Graph relations that lie beside the memories, as they were found."""

    def close(self) -> None:
        """Let go of files and connections."""

    def __enter__(self) -> Self:
        """The reader itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


class ReaderBase:
    """What most readers share: nothing to narrow, counts to compare, no relations."""

    history: HistorySource | None = None
    rereads = True

    def __init__(self) -> None:
        """Start without notes."""
        self.notes: list[str] = []
        self.reporter: Reporter = NullReporter()

    def narrow(self, filters: Filters, since: str | None) -> None:
        """Read everything all the same."""

    def resume_in(self, folder: Path) -> datetime | None:
        """Reading it again costs nothing."""
        return None

    def finished(self) -> None:
        """Nothing was kept."""

    def extent(self) -> int | None:
        """The count of the store, where it has one."""
        return None

    @property
    def position(self) -> int | None:
        """In rows."""
        return None

    def missing(self) -> int | None:
        """Only the counts can tell."""
        return None

    def relations(self) -> Iterator[Json]:
        """No relations."""
        return iter(())

    def close(self) -> None:
        """Close the history, if there is one."""
        if self.history is not None:
            self.history.close()

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
