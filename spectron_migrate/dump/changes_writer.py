"""Adds to a dump what changed since it was read: one file a round, and only changed rows are read.

Before these files become too many or too large, they are folded into the other files of the dump.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from spectron_migrate.dump.changes import Header, changes_name, is_changes, note_newest, read_manifest
from spectron_migrate.dump.dead_lines import DeadLines
from spectron_migrate.dump.files import json_line, memory_line, set_time
from spectron_migrate.dump.folding import fold
from spectron_migrate.dump.index import SeenIndex
from spectron_migrate.dump.manifest import MEMORIES, Manifest
from spectron_migrate.dump.merge import later_than, owners_of
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.files.atomic import replace_file
from spectron_migrate.files.locks import try_lock
from spectron_migrate.records import Json, Memory, digest, format_time

MOST_FILES = 100
"""Files of changes: a dump is opened with all its files, and a process may have 256 open."""
MOST_BYTES = 32 << 20
"""Bytes in all of them: every reader of a dump holds them in memory."""
_LOOKUP_BATCH = 500

TextAt = Callable[[str, str], tuple[str, int] | None]
"""When a memory came to have a text, and the row of the history that says so."""


@dataclass(frozen=True, slots=True)
class RoundChanges:
    """What one round changed in the dump."""

    manifest: Manifest
    changed: Mapping[str, Memory | None]
    """Every memory that changed; None for one that is gone."""
    new: int = 0
    changed_text: int = 0
    changed_otherwise: int = 0
    deleted: int = 0
    returned: int = 0


class ChangesWriter:
    """Brings a dump that was read in full up to date, round by round; `DumpWriter.begin_changes` makes it."""

    def __init__(self, path: Path, manifest: Manifest, index: SeenIndex, moved: DeadLines) -> None:
        """`index`: the rows of that reading, with the offsets of their lines before `moved`. This object closes it."""
        self._path = path
        self._manifest = manifest
        self._index = index
        self._moved = moved
        self._lines = (path / MEMORIES).open("rb")
        self._over: dict[str, tuple[bytes, bool]] = {}
        """What was laid over that file, as `changes.last_lines` gives it."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the dump, unless another process has written the dump."""
        return self._manifest

    def write_changes(
        self,
        memories: Iterable[Memory],
        gone: Iterable[str],
        retimed: Collection[str],
        *,
        text_at: TextAt | None,
        native_count: int,
        began: datetime,
        ended: Callable[[], datetime],
    ) -> RoundChanges | None:
        """Write what changed; None if that is not the dump that this object knows, or all has to be read again.

        Afterwards the dump shows all of Mem0 as of `began`. Raises LedgerLocked while an export writes the dump,
        InputError if it cannot be written.
        """
        lock = try_lock(self._path / ".lock")
        if lock is None:
            raise LedgerLocked(f"another export is writing {self._path}", hint="wait until it has ended")
        with lock:
            now = read_manifest(self._path)
            if now is None or now.digest != self._manifest.digest:
                return None
            try:
                lines = self._new_lines(memories, gone, retimed, text_at)
                if lines and self._is_fold_due(sum(len(line or b"") for line in lines.values())):
                    self._fold()
                return self._write(lines, native_count, began, ended) if lines is not None else None
            except sqlite3.OperationalError as error:  # of the index, which is in the dump's directory
                raise _cannot_write(self._path, str(error)) from error

    def close(self) -> None:
        """Close its files."""
        self._lines.close()
        self._index.close()

    def _new_lines(
        self, memories: Iterable[Memory], gone: Iterable[str], retimed: Collection[str], text_at: TextAt | None
    ) -> dict[str, bytes | None] | None:
        """The lines that changed; None if one of the rows was in the dump, but not as a memory."""
        lines: dict[str, bytes | None] = {}
        for memory in memories:
            if self._is_no_memory(memory.id):
                return None
            known = text_at(memory.id, memory.memory) if text_at is not None else None
            lines[memory.id] = _without_spare_room(memory_line(memory, known))
        for mem0_id in gone:
            if mem0_id not in lines:
                if self._line(mem0_id) is None:
                    return None
                lines[mem0_id] = None
        for mem0_id in retimed:
            old = self._line(mem0_id) if mem0_id not in lines else None
            if old is not None and text_at is not None:
                row = json.loads(old)
                known = text_at(mem0_id, row["memory"])
                # Without an event the time is the row's own, which only the row shows.
                if known is None and row["text_at_source"] == "history":
                    return None
                if known is not None:
                    set_time(row, known)
                lines[mem0_id] = _without_spare_room(json_line(row))
        return {mem0_id: line for mem0_id, line in lines.items() if line != self._line(mem0_id)}

    def _is_no_memory(self, mem0_id: str) -> bool:
        """Whether the dump lists the row as skipped."""
        found = self._index.find(mem0_id) if mem0_id not in self._over else None
        return found is not None and not found.written

    def _line(self, mem0_id: str) -> bytes | None:
        """The line of a memory in the dump as it is now."""
        if mem0_id in self._over:
            line, is_there = self._over[mem0_id]
            return line if is_there else None
        found = self._index.find(mem0_id)
        if found is None or not found.written:
            return None
        return self._line_at(found.offset)

    def _write(
        self,
        lines: dict[str, bytes | None],
        native_count: int,
        began: datetime,
        ended: Callable[[], datetime],
    ) -> RoundChanges:
        if not lines:
            return RoundChanges(self._manifest, {})
        manifest = self._manifest
        start = later_than(manifest.scan_began, format_time(began))
        counts: dict[str, int] = dict.fromkeys(("new", "changed_text", "changed_otherwise", "deleted", "returned"), 0)
        changed: dict[str, Memory | None] = {}
        written, last_records, gone, returned, users = [], [], [], [], set()
        for mem0_id, line in lines.items():
            before = self._line(mem0_id)
            old = json.loads(before) if before is not None else None
            new = json.loads(line) if line is not None else None
            if new is None or line is None:
                counts["deleted"] += 1
                gone.append(mem0_id)
                last_records.append(before or b"")
            else:
                written.append(line)
                counts[self._kind(mem0_id, old, new)] += 1
                if mem0_id in manifest.tombstones:
                    returned.append(mem0_id)
            for row, sign in ((old, -1), (new, 1)):
                if row is not None:
                    self._index.count_owners([owners_of(row)], sign)
                    users.add(row["user_id"])
            changed[mem0_id] = Memory.from_json(new) if new is not None else None
        body = b"".join([*written, *last_records])
        header = Header(
            previous=manifest.digest,
            scan_id=digest(manifest.source.identity, start)[:16],
            began=start,
            ended=format_time(ended()),
            native_count=native_count,
            memories=manifest.memories + counts["new"] + counts["returned"] - counts["deleted"],
            users=self._index.users_among(user for user in users if user is not None),
            agents=self._index.owners("agent"),
            runs=self._index.owners("run"),
            skipped=manifest.skipped,
            changed=len(written),
            gone=tuple(gone),
            returned=tuple(returned),
            body=hashlib.sha256(body).hexdigest(),
        )
        self._publish(changes_name(max(manifest.generation, 1) + 1), header, body)
        self._over |= {mem0_id: (line, True) for mem0_id, line in lines.items() if line is not None}
        self._over |= {mem0_id: (line, False) for mem0_id, line in zip(gone, last_records, strict=True)}
        return RoundChanges(self._manifest, changed, **counts)

    def _kind(self, mem0_id: str, old: Mapping[str, Json] | None, new: Mapping[str, Json]) -> str:
        if mem0_id in self._manifest.tombstones:
            return "returned"
        if old is None:
            return "new"
        return "changed_text" if old["memory"] != new["memory"] else "changed_otherwise"

    def _publish(self, name: str, header: Header, body: bytes) -> None:
        try:
            replace_file(self._path / name, header.line() + body, durable=True)
            note_newest(self._path, name)
        except OSError as error:
            raise _cannot_write(error.filename or self._path / name, error.strerror or str(error)) from error
        manifest = read_manifest(self._path)
        assert manifest is not None  # noqa: S101 - it was written a moment ago
        self._manifest = manifest

    def _is_fold_due(self, size: int) -> bool:
        """Whether one more file, with lines of this size, would be too much."""
        sizes = [file.size for name, file in self._manifest.files.items() if is_changes(name)]
        return bool(sizes) and (len(sizes) >= MOST_FILES or sum(sizes) + size > MOST_BYTES)

    def _fold(self) -> None:
        """Fold the files of changes into the other files. If it fails, the dump and this object are as before.

        Should it fail after that, this object no longer knows the dump.
        """
        dead = self._replaced_lines()
        places = [(self._moved.now(offset), size) for offset, size in dead]
        end = self._manifest.files[MEMORIES].size + self._moved.size
        try:
            manifest = fold(self._path, self._manifest, self._lines, self._over, places)
            self._lines.close()
            self._lines = (self._path / MEMORIES).open("rb")
        except OSError as error:
            raise _cannot_write(error.filename or self._path, error.strerror or str(error)) from error
        offsets: dict[str, int | None] = {}
        for mem0_id, (line, is_there) in self._over.items():
            offsets[mem0_id] = end if is_there else None
            end += len(line) if is_there else 0
        self._index.move(offsets)
        self._moved = self._moved.and_also(dead)
        self._over.clear()
        self._manifest = manifest

    def _replaced_lines(self) -> list[tuple[int, int]]:
        """Offset and size of the lines in the file of memories that changes replace, ascending."""
        ids, offsets = iter(sorted(self._over)), array("q")
        while batch := list(islice(ids, _LOOKUP_BATCH)):
            offsets.extend(row.offset for row in self._index.find_all(batch).values() if row.written)
        return [(offset, len(self._line_at(offset))) for offset in sorted(offsets)]

    def _line_at(self, offset: int) -> bytes:
        self._lines.seek(self._moved.now(offset))
        return self._lines.readline()


def _without_spare_room(line: bytes) -> bytes:
    """The same bytes: those that orjson makes take several kilobytes, however short they are."""
    return bytes(memoryview(line))


def _cannot_write(path: Path | str, why: str) -> InputError:
    hint = "the dump is as it was after the last round; is the disk full?"
    return InputError(f"{path} cannot be written: {why}", hint=hint)


def whole_of(manifest: Manifest) -> bool:
    """Whether the dump was read whole in its last scan, and is shown to be complete."""
    return manifest.complete is True and manifest.whole and not manifest.filters and not manifest.left_out
