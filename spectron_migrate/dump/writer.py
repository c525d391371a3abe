"""Brings a dump up to date: merges the rows of a scan by id into the old dump, in constant memory.

Rows go to a new file as they come. `commit` then reads the old dump once, compares its memories with the scan, keeps
them or gives them a tombstone, and renames the manifest last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from spectron_migrate import __version__
from spectron_migrate.dump.admission import Admission
from spectron_migrate.dump.changes import NEWEST, is_changes, read_manifest
from spectron_migrate.dump.changes_writer import ChangesWriter, whole_of
from spectron_migrate.dump.copies import CONFLICTS, row_to_drop
from spectron_migrate.dump.dead_lines import DeadLines
from spectron_migrate.dump.files import LineFile, json_line, memory_line, prepare_directory, publish, roll_forward
from spectron_migrate.dump.import_signs import ImportSigns
from spectron_migrate.dump.index import Batch, SeenIndex
from spectron_migrate.dump.manifest import (
    DELETED,
    MEMORIES,
    MOST_ANCESTORS,
    SKIPPED,
    Manifest,
    Tombstone,
    all_complete,
    pending_name,
)
from spectron_migrate.dump.merge import (
    DumpUpdate,
    MergeResult,
    describe_source,
    later_than,
    limits_of,
    owners_of,
    same_source,
)
from spectron_migrate.dump.opened import Dump, open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.records import (
    Filters,
    Json,
    Memory,
    Skipped,
    SourceInfo,
    digest,
    format_time,
    reason_key,
)


class DumpWriter:
    """Writes one scan into a dump directory. A block that ends without `commit` leaves the old dump as it was."""

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        began: datetime,
        *,
        filters: Filters | None = None,
        since: str | None = None,
        rereads: bool = False,
    ) -> None:
        """Open or create the directory.

        `rereads`: an id that comes twice is one row that was read twice, and the later reading counts. Otherwise these
        are two copies: the newer one counts, and the other is listed as skipped. Raises InputError if the directory
        holds the dump of another source, an altered dump, or something else.
        """
        self.path = path
        self.skipped: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._import_signs = ImportSigns()
        self.filtered = 0
        self._source = source
        self._filters = filters or Filters()
        self._since = since
        self._admission = Admission(self._filters, since)
        self._admits_all = not self._filters and since is None
        self._rereads = rereads
        self._files: dict[str, LineFile] = {}
        self._batch = Batch()
        self._pass = 0
        self._settled = True
        self._index: SeenIndex | None = None
        self._moved = DeadLines()
        self._published: Manifest | None = None
        self._lock = prepare_directory(path)
        try:
            self._old = self._open_old_dump()
            self._began = later_than(
                self._old.manifest.scan_began if self._old is not None else None, format_time(began)
            )
            self._scan_id = digest(source.identity, self._began)[:16]
            self._seen = self._index = SeenIndex(path / f".seen.{self._scan_id}", compares=self._old is not None)
            if self._old is not None:
                self._admission.learn(self._old.memories(), self._old.tombstones)
            self.begin_pass()
        except BaseException:
            self.abort()
            raise

    def begin_pass(self) -> None:
        """Begin to read the whole store (again): what an earlier pass skipped or filtered out no longer counts."""
        self._settle()
        self._pass += 1
        self.skipped.clear()
        self._left_out.clear()
        self.filtered = 0
        self._without_id = 0
        self._open_file(SKIPPED)
        if self._pass == 1:
            self._open_file(MEMORIES)

    def add(self, row: Memory | Skipped, *, text_at: tuple[str, int] | None = None) -> bool:
        """Add one row of the scan; False if the filters left it out.

        `text_at`: when the current text came to be according to Mem0's history, and the history row that says so.
        """
        if isinstance(row, Skipped):
            self._skip(row)
            if row.id:
                self._add_unwritten(row.id)
            else:
                self._without_id += 1
            return True
        if self._admits_all or self._admission.admits(row):
            self._batch.add(row, memory_line(row, text_at))
            if self._batch.is_full:
                self._flush()
            return True
        self.filtered += 1
        self._add_unwritten(row.id)
        return False

    def left_out(self) -> dict[str, int]:
        """How many rows with content this pass has skipped, by reason: it is not complete then."""
        self._settle()
        return dict(self._left_out)

    def append_line(self, name: str, value: Json) -> None:
        """Append a line to one of the other files (history, relations)."""
        file = self._files.get(name) or self._open_file(name)
        file.write(json_line(value))

    @property
    def previous(self) -> Dump | None:
        """The dump before this scan."""
        return self._old

    def has_written(self, memory_id: str) -> bool:
        """Whether the scan has read this memory."""
        self._settle()
        found = self._seen.find(memory_id)
        return found is not None and found.written

    def distinct_rows(self) -> int:
        """How many different rows this pass has read so far, skipped and filtered ones included."""
        self._settle()
        return self._seen.seen(self._pass) + self._without_id

    def skipped_rows(self) -> Iterator[Skipped]:
        """The rows that were skipped, in the order they came."""
        self._settle()
        for line in self._files[SKIPPED].lines():
            row = json.loads(line)
            yield Skipped(id=row["id"], reason=row["reason"])

    def commit(
        self,
        *,
        complete: bool | None,
        native_count: int | None,
        ended: datetime,
        fence: str | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> DumpUpdate:
        """Replace the dump by the result of the scan: all of it, or, after a crash, none of it.

        Memories that were not seen get a tombstone only if the scan is shown to be `complete` (True, not None), and
        only for the owners it admits. `advance` gets the number of memories of the old dump merged since its last call.
        """
        self._settle()
        if complete is not False:
            self._seen.forget_before(self._pass)
        self._drop_dead_lines()
        merge = MergeResult()
        if self._old is not None:
            sets_tombstones = complete is True and self._since is None and self._source.kind != "files"
            self._merge_old(self._old, merge, advance, sets_tombstones=sets_tombstones)
        manifest = self._manifest(merge, complete, native_count, format_time(ended), fence)
        new = self._seen.written() - merge.matched - len(merge.returned)
        differing = merge.all_differing(self._seen, new) if self._old is not None else None
        publish(self.path, manifest, self._files)
        if whole_of(manifest) and not merge.carried:
            self._published = manifest
        return DumpUpdate(manifest, new, merge.changed_text, merge.changed_otherwise, merge.deleted, differing)

    def begin_changes(self) -> ChangesWriter | None:
        """After `commit`: the writer of later changes to this dump; None unless it was read whole and is complete."""
        index, self._index = self._index, None
        if self._published is None or index is None:
            self._index = index
            return None
        index.sort()
        index.hide()
        return ChangesWriter(self.path, self._published, index, self._moved)

    def abort(self) -> None:
        """Remove everything this scan wrote beside the dump; no effect after a commit."""
        for file in self._files.values():
            file.discard()
        self._files.clear()
        if self._index is not None:
            self._index.close()
            self._index = None
        self._admission.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    # --- the rows of the scan

    def _add_unwritten(self, memory_id: str) -> None:
        self._batch.add_unwritten(memory_id)
        if self._batch.is_full:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if not batch.ids:
            return
        memories = self._files[MEMORIES]
        offset = memories.size
        memories.write_all(batch.lines)
        self._seen.append(batch, offset, self._pass)
        self._seen.count_owners(batch.owners)
        self._import_signs.add(batch.times)
        self._settled = False

    def _settle(self) -> None:
        """Choose one of several rows of an id. The lines of the others are dead, and `commit` leaves them out."""
        self._flush()
        if self._settled:
            return
        line_at = self._files[MEMORIES].line_at
        for rows in self._seen.repeated():
            if not self._rereads:  # for copies in files: the same one is kept, in whatever order they came
                rows.sort(key=lambda row: (row.pass_number, line_at(row.offset) if row.written else b""))
            kept, *rest = rows
            dropped = []
            for row in rest:
                loser, reason = row_to_drop(kept, row, line_at, rereads=self._rereads)
                if reason is not None:
                    self._skip(Skipped(row.id, reason, has_content=reason in CONFLICTS))
                dropped.append(loser)
                last = max(kept.pass_number, row.pass_number)
                kept = (row if loser is kept else kept)._replace(pass_number=last)
            self._seen.keep_only(kept, dropped)
        self._settled = True

    def _skip(self, row: Skipped) -> None:
        reason = reason_key(row.reason)
        self.skipped[reason] += 1
        if row.has_content:
            self._left_out[reason] += 1
        self._files[SKIPPED].write(json_line({"id": row.id, "reason": row.reason}))

    # --- the old dump

    def _open_old_dump(self) -> Dump | None:
        """The dump before this scan, after completing a commit that a crash interrupted."""
        manifest = read_manifest(self.path)
        old = None
        if manifest is not None:
            if not same_source(manifest.source, self._source):
                theirs, ours = describe_source(manifest.source), describe_source(self._source)
                raise InputError(
                    f"{self.path} holds a dump of another source ({theirs}), not of {ours}",
                    hint="name another directory: `--dump DIR`",
                )
            roll_forward(self.path, manifest)
            old = open_dump(self.path)
        for pattern in (".*.jsonl.*", ".seen.*", ".manifest.*", f".{NEWEST}.*"):
            for leftover in self.path.glob(pattern):
                leftover.unlink()
        return old

    def _drop_dead_lines(self) -> None:
        """Rewrite the file of memories without the dead lines."""
        dead = self._seen.dead()
        offset = next(dead, None)
        if offset is None:
            return
        with_dead = self._files.pop(MEMORIES)
        kept = LineFile(with_dead.path.with_name(with_dead.path.name + ".kept"))
        at = 0
        for line in with_dead.lines():
            if at == offset:
                self._seen.count_owners([owners_of(json.loads(line))], sign=-1)
                self._moved.add(offset, len(line))
                offset = next(dead, None)
            else:
                kept.write(line)
            at += len(line)
        with_dead.discard()
        kept.rename(with_dead.path)
        self._files[MEMORIES] = kept

    def _merge_old(
        self, old: Dump, merge: MergeResult, advance: Callable[[int], None] | None, *, sets_tombstones: bool
    ) -> None:
        for line, found, row in self._seen.beside(old.encoded_lines(MEMORIES), advance):
            if found is not None and found.written:
                merge.compare(found, line, row)
            elif found is None and sets_tombstones and self._filters.admits(Memory.from_json(row)):
                merge.deleted += 1
                merge.differs(row["id"])
                merge.tombstones[row["id"]] = Tombstone(first_missed=self._began, scan=self._scan_id)
                self.append_line(DELETED, row)
            else:
                merge.carried += 1
                self._import_signs.add([(row["created_at"], row["updated_at"])])
                self._files[MEMORIES].write(line)
                self._seen.count_owners([owners_of(row)])
        for line, found, row in self._seen.beside(old.encoded_lines(DELETED)):
            if found is not None and found.written:
                merge.returned.append(found.id)
                merge.knows(found)
                merge.differs(found.id)
            else:
                merge.tombstones[row["id"]] = old.tombstones[row["id"]]
                (self._files.get(DELETED) or self._open_file(DELETED)).write(line)

    # --- the new dump

    def _manifest(
        self, merge: MergeResult, complete: bool | None, native_count: int | None, ended: str, fence: str | None
    ) -> Manifest:
        old = self._old.manifest if self._old is not None else None
        whole = complete is True and not self._filters and self._since is None
        is_all_from_this_scan = old is None or not merge.carried
        files = {name: file.checksum() for name, file in self._files.items() if file.count or name == MEMORIES}
        if old is not None:
            replaced = (MEMORIES, DELETED, SKIPPED)
            kept = {name: file for name, file in old.files.items() if name not in replaced and not is_changes(name)}
            files = kept | files
        return Manifest(
            tool=f"spectron-migrate {__version__}",
            source=self._source,
            native_count=native_count,
            began=self._began if is_all_from_this_scan or old is None else min(old.began, self._began),
            ended=ended,
            scan_id=self._scan_id,
            scan_began=self._began,
            complete=complete if whole or old is None else all_complete(complete, old.completeness),
            whole=whole or (old is not None and old.whole),
            memories=self._files[MEMORIES].count,
            users=self._seen.users(),
            agents=self._seen.owners("agent"),
            runs=self._seen.owners("run"),
            skipped=dict(sorted(self.skipped.items())),
            left_out=dict(sorted(self._left_out.items())),
            filtered=self.filtered,
            filters=limits_of(self._filters, self._since),
            fence=fence,
            imported=self._import_signs.is_import,
            returned=tuple(merge.returned),
            returned_at=merge.returned_at(old, self._began),
            tombstones=merge.tombstones,
            files=files,
            generation=1 if old is None else max(old.generation, 1) + 1,
            ancestors=() if old is None else (old.digest, *old.ancestors)[:MOST_ANCESTORS],
        )

    def _open_file(self, name: str) -> LineFile:
        old = self._files.pop(name, None)
        if old is not None:
            old.discard()
        self._files[name] = LineFile(self.path / pending_name(name, self._scan_id))
        return self._files[name]
