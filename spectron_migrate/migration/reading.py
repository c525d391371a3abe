"""Brings the dump up to date for a round, and knows when Mem0 need not be read for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from spectron_migrate.dump import read_manifest
from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.migration.round_reporter import RoundReporter
from spectron_migrate.records import Filters, counted
from spectron_migrate.state.journal import read_journal


@dataclass(frozen=True, slots=True)
class Reading:
    """What Mem0 holds, and what changed there since the reading before."""

    memories: int
    new: int = 0
    changed: int = 0
    """With another text."""
    touched: int = 0
    deleted: int = 0
    returned: int = 0
    missed: int = 0
    """Changes that a mark of Mem0's state had not shown."""
    was_read: bool = True

    @classmethod
    def of(cls, summary: ExportSummary, *, looked_unchanged: bool) -> Reading:
        """`looked_unchanged`: the mark of Mem0's state was still that of the reading before."""
        found = cls(
            memories=summary.memories,
            new=summary.new,
            changed=summary.changed_text,
            touched=summary.changed_otherwise,
            deleted=summary.deleted,
            returned=len(summary.returned),
        )
        # A memory that expires is touched although the store does not change.
        return replace(found, missed=found.changes - found.touched) if looked_unchanged else found

    @property
    def changes(self) -> int:
        """How many memories changed in any way."""
        return self.new + self.changed + self.touched + self.deleted + self.returned


@dataclass(frozen=True, slots=True)
class _Known:
    """The dump with this digest holds all of Mem0 while Mem0 has this mark."""

    mark: str
    digest: str
    fence: str | None


class Mem0Reading:
    """Reads one Mem0 into one dump, again and again."""

    def __init__(
        self,
        dump: Path,
        state: Path,
        open_reader: Callable[[datetime], Reader],
        state_mark: Callable[[int], str | None],
        *,
        reporter: RoundReporter,
        now: Callable[[], datetime],
    ) -> None:
        """`state_mark` as in `CatchUpSettings`; `now` with its zone."""
        self._dump = dump
        self._state = state
        self._open_reader = open_reader
        self._state_mark = state_mark
        self._reporter = reporter
        self._now = now
        self._known: _Known | None = None
        self._trusts_marks = True

    async def read(self) -> Reading:
        """Read all of Mem0; raises Incomplete if something of it is known to be missing.

        Where completeness is not provable, no deletion is carried over, and the gate `base` holds until it is accepted.
        """
        # Taken before the reading: a change during it makes the next mark differ.
        mark = await asyncio.to_thread(self._mark)
        looked_unchanged = self._known is not None and self._known.mark == mark
        self._known = None
        summary = await asyncio.to_thread(self._scan)
        if summary.complete is False:
            raise Incomplete(
                f"Mem0 could not be read in full ({counted(summary.memories, 'memory')} of {summary.native_count})",
                hint="nothing was planned from it",
            )
        found = Reading.of(summary, looked_unchanged=looked_unchanged)
        if found.missed:
            self._trusts_marks = False
            self._reporter.warn(
                f"{counted(found.missed, 'change')} of Mem0 did not show in the state of its files or its server: from"
                " now on each round reads all of it"
            )
        manifest = read_manifest(self._dump)
        if mark is not None and manifest is not None and self._trusts_marks:
            self._known = _Known(mark, manifest.digest, self._fence())
        return found

    async def read_if_changed(self) -> Reading:
        """Read Mem0, unless the dump is known to hold all of it still."""
        manifest, known = read_manifest(self._dump), self._known
        if manifest is None or known is None or (known.digest, known.fence) != (manifest.digest, self._fence()):
            return await self.read()
        if known.mark != await asyncio.to_thread(self._mark):
            return await self.read()
        return Reading(manifest.memories, was_read=False)

    def _mark(self) -> str | None:
        return self._state_mark(int(self._now().timestamp() * 1e9)) if self._trusts_marks else None

    def _scan(self) -> ExportSummary:
        with self._reporter.reading(), self._open_reader(self._now()) as reader:
            return run_export(
                reader,
                self._dump,
                filters=Filters(),
                since=None,
                keep_history=False,
                reporter=self._reporter,
                clock=self._now,
                fence=self._fence(),
            )

    def _fence(self) -> str | None:
        state = read_journal(self._state).state
        return state.fence if state.is_under_way else None
