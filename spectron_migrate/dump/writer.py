"""Bringing a dump up to date: the rows of a scan are merged by id into what is there, in flat memory.

Rows go to a new file as they come. `commit` then walks the old dump once to compare, carry over or bury its
memories, and renames the manifest last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from spectron_migrate import __version__
from spectron_migrate.dump.files import LineFile, encoded, locked_folder, roll_forward
from spectron_migrate.dump.index import HELD, NOT_WRITTEN, Entry, Found, SeenIndex
from spectron_migrate.dump.manifest import (
    DELETED,
    MANIFEST,
    MEMORIES,
    SKIPPED,
    Manifest,
    Tombstone,
    pending_name,
    read_manifest,
)
from spectron_migrate.dump.merge import Merge, changed_at, limits_of, named_source, owners_of, same_source
from spectron_migrate.dump.opened import Dump, open_dump
from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import sync_folder, write_durably
from spectron_migrate.records import Filters, Json, Memory, Skipped, SourceInfo, digest, format_time, parse_time

IDENTICAL = "identical copy of the same id"
OLDER = "older copy of the same id"
OTHER = "another copy of the same id with the same time"
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """What a scan did to the dump."""

    manifest: Manifest
    new: int
    changed_text: int
    changed_otherwise: int
    """The text is the same; metadata, times or state are not."""
    deleted: int


class DumpWriter:
    """One scan's way into a dump directory; leaving the block without `commit` leaves the old dump."""

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
        """Open or make the directory.

        `rereads` tells that an id given twice is one row read twice, of which the later reading counts;
        otherwise it is two copies, of which the newer one counts and the other is named. Raises InputError
        where the directory holds another source's dump, an altered one, or something else.
        """
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.filtered = 0
        self._source = source
        self._filters = filters or Filters()
        self._since = since
        self._rereads = rereads
        self._files: dict[str, LineFile] = {}
        self._batch: list[Entry] = []
        self._held = 0
        self._pass = 0
        self._settled = True
        self._index: SeenIndex | None = None
        self._lock = locked_folder(path)
        try:
            self._old = self._previous()
            self._began = _after(self._old.manifest.scan_began if self._old is not None else None, format_time(began))
            self._scan_id = digest(source.identity, self._began)[:16]
            self._seen = self._index = SeenIndex(path / f".seen.{self._scan_id}")
            self._want_what_the_scan_is_about()
            self.begin_pass()
        except BaseException:
            self.abort()
            raise

    def begin_pass(self) -> None:
        """The whole store is read (again): what an earlier pass skipped or left out no longer counts."""
        self._settle()
        self._pass += 1
        self.skipped.clear()
        self.filtered = 0
        self._without_id = 0
        self._open_file(SKIPPED)
        if self._pass == 1:
            self._open_file(MEMORIES)

    def give(self, row: Memory | Skipped, *, text_came: tuple[str, int] | None = None) -> bool:
        """Take one row of the scan; False where the filters left it out.

        `text_came` is what Mem0's history says of the text: when it came to be, and the row that tells.
        """
        if isinstance(row, Skipped):
            self._skip(row)
            if row.id:
                self._add(Entry.unwritten(row.id))
            else:
                self._without_id += 1
            return True
        if self._admits(row):
            told = row.to_json()
            if text_came is not None:
                told["text_at"], told["history_row"] = text_came
                told["text_at_source"] = "history"
            self._add(Entry.of(row, encoded(told)))
            return True
        self.filtered += 1
        self._add(Entry.unwritten(row.id))
        return False

    def keep(self, name: str, value: Json) -> None:
        """Add a line to one of the other files (history, relations)."""
        file = self._files.get(name) or self._open_file(name)
        file.write(encoded(value))

    @property
    def carried(self) -> Dump | None:
        """The dump as it was before this scan."""
        return self._old

    def wrote(self, memory_id: str) -> bool:
        """Whether the scan has given this memory."""
        self._settle()
        found = self._seen.find(memory_id)
        return found is not None and found.written

    def distinct(self) -> int:
        """Different rows this pass has given so far, skipped and filtered ones included."""
        self._settle()
        return self._seen.seen(self._pass) + self._without_id

    def skipped_rows(self) -> Iterator[Skipped]:
        """The rows that were skipped, in their order."""
        self._settle()
        for line in self._files[SKIPPED].lines():
            row = json.loads(line)
            yield Skipped(id=row["id"], reason=row["reason"])

    def commit(
        self,
        *,
        complete: bool,
        native_count: int | None,
        ended: datetime,
        fence: str | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Changes:
        """Make the scan the dump: all of it, or after a crash nothing of it.

        `advance` is told of so many more memories of the old dump that were merged.
        Memories that were not seen get a tombstone only where `complete` holds, for owners the scan was about.
        """
        self._settle()
        if complete:
            self._seen.forget_before(self._pass)
        self._drop_dead_lines()
        merge = Merge()
        if self._old is not None:
            buries = complete and self._since is None and self._source.kind != "files"
            self._merge_old(self._old, merge, advance, buries=buries)
        manifest = self._manifest(merge, complete, native_count, format_time(ended), fence)
        new = self._seen.written() - merge.matched - len(merge.returned)
        self._publish(manifest)
        return Changes(manifest, new, merge.changed_text, merge.changed_otherwise, merge.deleted)

    def _returned_at(self, merge: Merge) -> dict[str, str]:
        """Kept over scans: whoever reads the dump only now has to know that the tombstone it saw has fallen."""
        earlier = self._old.manifest.returned_at if self._old is not None else {}
        kept = {memory_id: at for memory_id, at in earlier.items() if memory_id not in merge.tombstones}
        return {**kept, **dict.fromkeys(merge.returned, self._began)}

    def abort(self) -> None:
        """Remove everything this scan put beside the dump; harmless after a commit."""
        for file in self._files.values():
            file.discard()
        self._files.clear()
        if self._index is not None:
            self._index.close()
            self._index = None
        self._lock.close()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without a commit nothing of the scan stays."""
        self.abort()

    # --- the rows of the scan

    def _admits(self, memory: Memory) -> bool:
        if self._since is not None and (memory.updated_at or memory.created_at or self._since) < self._since:
            return False
        return not self._filters or self._filters.admits(memory) or self._seen.wants(memory.id)

    def _add(self, entry: Entry) -> None:
        self._batch.append(entry)
        self._held += len(entry.line)
        if len(self._batch) >= _BATCH or self._held >= HELD:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._held = self._batch, [], 0
        if not batch:
            return
        memories = self._files[MEMORIES]
        places, place = [], memories.size
        for entry in batch:
            places.append(place if entry.line else NOT_WRITTEN)
            place += len(entry.line)
        memories.write_all([entry.line for entry in batch if entry.line])
        self._seen.append(batch, places, self._pass)
        self._seen.count_owners([entry.owners for entry in batch])
        self._settled = False

    def _settle(self) -> None:
        """Of several rows of one id, all but one go: their lines are dead, and are left out in the end."""
        self._flush()
        if self._settled:
            return
        for rows in self._seen.repeated():
            kept, *rest = rows
            dropped = []
            for row in rest:
                loser = self._loser(kept, row)
                dropped.append(loser)
                last = max(kept.passed, row.passed)
                kept = replace(row if loser is kept else kept, passed=last)
            self._seen.keep_only(kept, dropped)
        self._seen.sort()
        self._settled = True

    def _loser(self, kept: Found, row: Found) -> Found:
        """Which of two rows of one id goes; copies in files are named, a row read twice is not."""
        if not row.written:
            return row if kept.written else kept  # what an earlier reading wrote stays; it is named as skipped
        if not kept.written:
            return kept
        memories = self._files[MEMORIES]
        ours, theirs = memories.line_at(kept.place), memories.line_at(row.place)
        named = kept.passed == row.passed and not self._rereads
        if ours == theirs:
            if named:
                self._skip(Skipped(row.id, IDENTICAL))
            return row
        at, its = changed_at(ours), changed_at(theirs)
        if named:
            self._skip(Skipped(row.id, OTHER if at == its else OLDER))
        if kept.passed < row.passed:
            return kept
        if at == its and not self._rereads:  # then the choice must not hang on the order of the files
            return kept if theirs > ours else row
        return kept if its >= at else row

    def _skip(self, row: Skipped) -> None:
        self.skipped[row.reason.split(":", 1)[0]] += 1
        self._files[SKIPPED].write(encoded({"id": row.id, "reason": row.reason}))

    # --- the old dump

    def _previous(self) -> Dump | None:
        """The dump as it is, after finishing what a crash interrupted."""
        manifest = read_manifest(self.path)
        old = None
        if manifest is not None:
            if not same_source(manifest.source, self._source):
                theirs, ours = named_source(manifest.source), named_source(self._source)
                raise InputError(
                    f"{self.path} holds a dump of another source ({theirs}), not of {ours}",
                    hint="name another directory: `--dump DIR`",
                )
            roll_forward(self.path, manifest)
            old = open_dump(self.path)
        for leftover in [*self.path.glob(".*.jsonl.*"), *self.path.glob(".seen.*"), *self.path.glob(".manifest.*")]:
            leftover.unlink()
        return old

    def _want_what_the_scan_is_about(self) -> None:
        """Memories the dump has of these owners, and buried ones, are taken even where they changed owner."""
        if self._filters and self._old is not None:
            self._seen.want(memory.id for memory in self._old.memories() if self._filters.admits(memory))
            self._seen.want(iter(self._old.tombstones))

    def _drop_dead_lines(self) -> None:
        """Write the file of memories anew where lines of it were overtaken by a later copy."""
        dead = self._seen.dead()
        place = next(dead, None)
        if place is None:
            return
        overtaken = self._files.pop(MEMORIES)
        kept = LineFile(overtaken.path.with_name(overtaken.path.name + ".kept"))
        at = 0
        for line in overtaken.lines():
            if at == place:
                self._seen.count_owners([owners_of(json.loads(line))], sign=-1)
                place = next(dead, None)
            else:
                kept.write(line)
            at += len(line)
        overtaken.discard()
        kept.rename(overtaken.path)
        self._files[MEMORIES] = kept

    def _merge_old(self, old: Dump, merge: Merge, advance: Callable[[int], None] | None, *, buries: bool) -> None:
        for line, row, found in self._seen.beside(old.raw_lines(MEMORIES), advance):
            if found is not None and found.written:
                merge.compare(found, line, row["memory"])
            elif found is None and buries and self._filters.admits(Memory.from_json(row)):
                merge.deleted += 1
                merge.tombstones[row["id"]] = Tombstone(first_missed=self._began, scan=self._scan_id)
                self.keep(DELETED, row)
            else:
                merge.carried += 1
                self._files[MEMORIES].write(line)
                self._seen.count_owners([owners_of(row)])
        for line, row, found in self._seen.beside(old.raw_lines(DELETED)):
            if found is not None and found.written:
                merge.returned.append(row["id"])
            else:
                merge.tombstones[row["id"]] = old.tombstones[row["id"]]
                (self._files.get(DELETED) or self._open_file(DELETED)).write(line)

    # --- the new dump

    def _manifest(
        self, merge: Merge, complete: bool, native_count: int | None, ended: str, fence: str | None
    ) -> Manifest:
        old = self._old.manifest if self._old is not None else None
        whole = complete and not self._filters and self._since is None
        alone = old is None or not merge.carried
        files = {name: file.sum() for name, file in self._files.items() if file.count or name == MEMORIES}
        if old is not None:
            kept = {name: told for name, told in old.files.items() if name not in (MEMORIES, DELETED, SKIPPED)}
            files = kept | files
        return Manifest(
            tool=f"spectron-migrate {__version__}",
            source=self._source,
            native_count=native_count,
            began=self._began if alone or old is None else min(old.began, self._began),
            ended=ended,
            scan_id=self._scan_id,
            scan_began=self._began,
            complete=complete and (whole or old is None or old.complete),
            whole=whole or (old is not None and old.whole),
            memories=self._files[MEMORIES].count,
            users=self._seen.users(),
            agents=self._seen.owners("agent"),
            runs=self._seen.owners("run"),
            skipped=dict(sorted(self.skipped.items())),
            filtered=self.filtered,
            filters=limits_of(self._filters, self._since),
            fence=fence,
            returned=tuple(merge.returned),
            returned_at=self._returned_at(merge),
            tombstones=merge.tombstones,
            files=files,
        )

    def _publish(self, manifest: Manifest) -> None:
        """The rename of the manifest is the moment the scan becomes the dump; the rest can be done again."""
        for name, file in list(self._files.items()):
            if name not in manifest.files:
                self._files.pop(name).discard()
            else:
                file.finish()
        draft = self.path / f".manifest.{self._scan_id}"
        write_durably(draft, json.dumps(manifest.to_json(), ensure_ascii=True, indent=1).encode() + b"\n")
        self._files.clear()  # from here on they belong to the dump: nothing may discard them
        draft.replace(self.path / MANIFEST)
        sync_folder(self.path)
        roll_forward(self.path, manifest)

    def _open_file(self, name: str) -> LineFile:
        old = self._files.pop(name, None)
        if old is not None:
            old.discard()
        self._files[name] = LineFile(self.path / pending_name(name, self._scan_id))
        return self._files[name]


def _after(last: str | None, began: str) -> str:
    """When a scan began, and never before the last one did: a clock that is put back must not turn their order."""
    if last is None or began > last:
        return began
    return format_time(parse_time(last) + timedelta(microseconds=1))
