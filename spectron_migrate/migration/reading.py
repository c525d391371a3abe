"""Brings the dump up to date for a round, by reading all of Mem0, or what changed there, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spectron_migrate.dump import Manifest, read_manifest
from spectron_migrate.dump.changes_writer import ChangesWriter, RoundChanges
from spectron_migrate.errors import Incomplete
from spectron_migrate.mem0.reader import Changed, ChangesReader, Reader
from spectron_migrate.migration.export import ExportSummary, run_export
from spectron_migrate.migration.round_reporter import RoundReporter
from spectron_migrate.records import Filters, Memory, counted
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore


@dataclass(frozen=True, slots=True)
class Reading:
    """What Mem0 holds, and what changed there since the reading before."""

    memories: int
    new: int = 0
    changed: int = 0
    """Memories with another text."""
    touched: int = 0
    deleted: int = 0
    returned: int = 0
    missed: int = 0
    """Changes that earlier rounds, which read only what changed, had missed."""
    was_read: bool = True
    """False: nothing at all has changed, so no row was read."""
    only: Mapping[str, Memory | None] | None = None
    """The memories that changed, by id, with None for one that is gone. None if all of Mem0 was read."""
    digest: str | None = None
    """Digest of the dump after this reading."""
    previous: str | None = None
    """Digest of the dump before this reading, with which the numbers above compare; `digest` if nothing was read."""
    seconds: float = 0.0
    """How long it took."""

    @classmethod
    def of(cls, summary: ExportSummary, manifest: Manifest | None, *, missed: int) -> Reading:
        """The result of reading all of Mem0. `manifest`: that of the dump, after the reading."""
        return cls(
            digest=manifest.digest if manifest is not None else None,
            previous=manifest.previous if manifest is not None else None,
            memories=summary.memories,
            new=summary.new,
            changed=summary.changed_text,
            touched=summary.changed_otherwise,
            deleted=summary.deleted,
            returned=len(summary.returned),
            missed=missed,
        )

    @classmethod
    def of_changes(cls, written: RoundChanges, *, previous: str) -> Reading:
        """Only what changed was read; it was added to the dump with the digest `previous`."""
        return cls(
            memories=written.manifest.memories,
            new=written.new,
            changed=written.changed_text,
            touched=written.changed_otherwise,
            deleted=written.deleted,
            returned=written.returned,
            only=written.changed,
            digest=written.manifest.digest,
            previous=previous,
        )

    @property
    def changes(self) -> int:
        """How many memories changed in any way."""
        return self.new + self.changed + self.touched + self.deleted + self.returned


@dataclass(slots=True)
class _Known:
    """What is known since all of Mem0 was read: the dump holds Mem0 as of this mark and these last changes."""

    fence: str | None
    mark: str | None = None
    """The state mark of Mem0; None if it has none."""
    changes: ChangesReader | None = None
    writer: ChangesWriter | None = None
    digest: str = ""
    """Digest of the dump."""

    def close(self) -> None:
        for each in (self.changes, self.writer):
            if each is not None:
                each.close()


class Mem0Reading:
    """Reads one Mem0 into one dump, again and again."""

    def __init__(
        self,
        dump: Path,
        state: Path | StateStore,
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
        self._is_trusted = True
        """False once a change was missed: from then on every round reads everything."""

    @property
    def reads_changes(self) -> bool:
        """Whether the next reading may read only what changed."""
        return self._known is not None and self._known.changes is not None

    async def read(self) -> Reading:
        """Read all of Mem0; raises Incomplete if something of it is known to be missing.

        If completeness cannot be proven, no deletion is carried over, and the gate `base` holds until it is accepted.
        """
        return await asyncio.to_thread(self._read_all)

    async def read_if_changed(self) -> Reading:
        """Read only what changed in Mem0, or nothing, if that is certain to be enough; else read all of it."""
        return await asyncio.to_thread(self._read_changes) or await self.read()

    def close(self) -> None:
        """Close the readers and files that are kept from one reading to the next."""
        self._forget()

    def _read_all(self) -> Reading:
        known, self._known = self._known, None
        try:
            # Taken before the reading: a change during it makes the next mark differ.
            mark = self._mark()
            looked_same = known is not None and mark is not None and known.mark == mark
            found = _Known(self._fence(), mark)
            try:
                summary = self._scan(found)
            except BaseException:
                found.close()
                raise
            if summary.complete is False:
                found.close()
                raise Incomplete(
                    f"Mem0 could not be read in full ({counted(summary.memories, 'memory')} of {summary.native_count})",
                    hint="nothing was planned from it",
                )
            manifest = read_manifest(self._dump)
            reading = Reading.of(summary, manifest, missed=self._missed(known, summary, looked_same=looked_same))
        finally:
            if known is not None:
                known.close()
        if reading.missed:
            self._is_trusted = False
            self._reporter.warn(
                f"{counted(reading.missed, 'change')} of Mem0 did not show in the state of its files or its server:"
                " from now on each round reads all of it"
            )
        if manifest is None or not self._is_trusted:
            found.close()
        else:
            found.digest = manifest.digest
            self._known = found
        return reading

    def _read_changes(self) -> Reading | None:
        """Read only what changed; None if everything has to be read."""
        manifest, known = read_manifest(self._dump), self._known
        if manifest is None or known is None or (known.digest, known.fence) != (manifest.digest, self._fence()):
            return None
        mark = self._mark()
        if mark is not None and known.mark == mark:
            return Reading(manifest.memories, was_read=False, digest=manifest.digest, previous=manifest.digest)
        try:
            with self._reporter.reading():
                written = self._write_changes(known)
        except BaseException:
            self._forget()
            raise
        if written is None:
            return None
        previous, known.mark, known.digest = known.digest, mark, written.manifest.digest
        if not written.changed:
            return Reading(manifest.memories, was_read=False, digest=previous, previous=previous)
        return Reading.of_changes(written, previous=previous)

    def _write_changes(self, known: _Known) -> RoundChanges | None:
        if known.changes is None or known.writer is None:
            return None
        began = self._now()
        if known.fence != self._fence():
            return None  # the cutover has just begun, and only a whole reading after its start can be the base dump
        changed = known.changes.changed(now=began)
        if changed is None:
            return None
        history = known.changes.history
        written = known.writer.write_changes(
            changed.memories,
            changed.gone,
            changed.retimed,
            text_at=history.text_at if history is not None else None,
            native_count=changed.native_count,
            began=began,
            ended=self._now,
        )
        if written is None:  # no dump has these changes, and nobody would find them again
            known.changes.close()
            known.changes = None
        return written

    def _missed(self, known: _Known | None, summary: ExportSummary, *, looked_same: bool) -> int:
        """How many changes this whole reading found that earlier rounds should have found.

        A memory that expires is touched although the store does not change, so it does not count.
        """
        count = summary.new + summary.changed_text + summary.deleted + len(summary.returned)
        if known is None or not count:
            return 0
        if looked_same and self._mark() == known.mark:
            return count
        if known.changes is None:
            return 0
        since = known.changes.changed(now=self._now()) if summary.differing is not None else None
        return len((summary.differing or frozenset()) - _ids(since)) if since is not None else 0

    def _forget(self) -> None:
        known, self._known = self._known, None
        if known is not None:
            known.close()

    def _mark(self) -> str | None:
        return self._state_mark(int(self._now().timestamp() * 1e9)) if self._is_trusted else None

    def _scan(self, found: _Known) -> ExportSummary:
        """Read all of Mem0, and put the reader of later changes into `found`."""

        def keep(writer: ChangesWriter | None) -> None:
            found.writer = writer
            found.changes = reader.changes() if writer is not None else None

        with self._reporter.reading(), self._open_reader(self._now()) as reader:
            return run_export(
                reader,
                self._dump,
                filters=Filters(),
                since=None,
                keep_history=False,
                reporter=self._reporter,
                clock=self._now,
                fence=found.fence,
                keep_changes=keep,
            )

    def _fence(self) -> str | None:
        state = read_journal(self._state).state
        return state.fence if state.is_under_way else None


def _ids(changed: Changed) -> frozenset[str]:
    return frozenset(memory.id for memory in changed.memories).union(changed.gone)
