"""Which of two texts of a memory is the newer one. This is the only place that decides it.

The rule is docs/protocol.md, Versions: a dump that descends from the one that last showed the memory is newer, whatever
the clocks say. Otherwise the times decide, if they differ. If neither decides, a person does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spectron_migrate.database.interface import Database
from spectron_migrate.ledger.plan import LIVE, ScanRow
from spectron_migrate.records import is_time

Recency = Literal["newer", "older", "waits", "unknown"]
"""`waits`: the memory was captured after the scan began, and the next scan decides."""

_LINEAGE = (
    "WITH RECURSIVE lineage(no) AS (SELECT parent FROM scan WHERE no = ? UNION"
    " SELECT parent FROM scan JOIN lineage USING (no) WHERE parent IS NOT NULL)"
    " SELECT no FROM lineage WHERE no IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class LastText:
    """The last text that the ledger has of a memory."""

    text_at: str | None
    recorded_at: str
    is_captured: bool
    """Whether the text itself came from a capture."""
    seen_in: int
    """The scan that last showed the memory."""
    captured_at: str | None
    """When the capture ended that showed it last, if a capture did."""


class RecencyRule:
    """Compares texts that one scan, or one set of captured rows, shows with those that the ledger has."""

    def __init__(self, db: Database, scan: ScanRow, number: int | None) -> None:
        """`number`: the scan's number in the ledger."""
        self._db = db
        self._scan = scan
        self._number = number
        self._ancestors: frozenset[int] | None = None

    def compare(self, text_at: str | None, last: LastText) -> Recency:
        """Whether a different text that this scan shows is newer than the last one."""
        if self._scan.kind == LIVE:
            # Captured times rise in the order of completion, so a row with an earlier time was drained before.
            return "older" if last.is_captured and (text_at or "") < (last.text_at or "") else "newer"
        by_time = _by_time(text_at, last.text_at)
        began = self._scan.began
        if last.captured_at is not None and began is not None:
            return "newer" if began > last.captured_at else "waits"
        if last.captured_at is not None:
            return "older" if by_time == "older" else "unknown"
        if self.descends_from(last.seen_in):
            # Nobody knows when a file was read from Mem0: an old copy may have been exported after a newer one.
            return "unknown" if began is None and by_time == "older" else "newer"
        if self._is_ancestor_of(last.seen_in):
            return "older"
        # If it was read after the last text was recorded, but has an earlier time, one of the clocks is wrong.
        contradicts = by_time == "older" and began is not None and began > last.recorded_at
        return "unknown" if contradicts else by_time

    def descends_from(self, scan: int) -> bool:
        """Whether this dump was brought up to date from the dump of that scan, over any number of generations."""
        if self._ancestors is None:
            self._ancestors = frozenset() if self._number is None else self._lineage(self._number)
        return scan in self._ancestors

    def is_same_or_descends_from(self, scan: int) -> bool:
        """Whether `descends_from` is true, or it is that very scan."""
        return scan == self._number or self.descends_from(scan)

    def _is_ancestor_of(self, scan: int) -> bool:
        return self._number is not None and self._number in self._lineage(scan)

    def _lineage(self, number: int) -> frozenset[int]:
        return frozenset(row[0] for row in self._db.execute(_LINEAGE, (number,)))


def _by_time(text_at: str | None, last: str | None) -> Recency:
    if text_at is None or last is None or text_at == last or not (is_time(text_at) and is_time(last)):
        return "unknown"
    return "newer" if text_at > last else "older"
