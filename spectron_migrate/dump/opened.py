"""A dump opened for reading: a directory that was checked, or raw Mem0 files behind the same interface."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from spectron_migrate.dump.manifest import (
    AGAIN,
    DELETED,
    HISTORY,
    MANIFEST,
    MEMORIES,
    RELATIONS,
    SKIPPED,
    Manifest,
    Tombstone,
    pending_name,
    read_manifest,
)
from spectron_migrate.errors import InputError
from spectron_migrate.files.scratch import Scratch
from spectron_migrate.records import Json, Memory, Skipped, SourceInfo, counted, digest


class Dump:
    """A dump that was checked when it was opened; memories are streamed, never held.

    It stays the one that was opened, also where an export puts another in its place meanwhile.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        files: Mapping[str, BinaryIO],
        raw_digest: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Use `open_dump` or `open_any`."""
        self.path = path
        self.notes = notes
        """What makes one doubt that raw files are all of it; an export has said so of its dump."""
        self.manifest = manifest
        self._files = files
        self._stamps = {name: _stamp(file) for name, file in files.items()}
        self._raw_digest = raw_digest

    @property
    def raw(self) -> bool:
        """True for raw Mem0 files: nothing is known about when and how completely Mem0 was read."""
        return self._raw_digest is not None

    @property
    def source(self) -> SourceInfo:
        """Which Mem0 it came from."""
        return self.manifest.source

    @property
    def began(self) -> str | None:
        """When the oldest scan began that speaks for a memory in here; None where no scan time is known."""
        return None if self.source.kind == "files" else self.manifest.began

    @property
    def complete(self) -> bool | None:
        """Whether the reading is proven complete; None for raw files, which prove nothing."""
        return None if self.raw else self.manifest.complete

    @property
    def whole(self) -> bool:
        """Whether all of Mem0 was read at least once, without a filter."""
        return self.manifest.whole and not self.raw

    @property
    def digest(self) -> str:
        """Of the manifest, or of the raw files: equal digests mean equal memories."""
        return self._raw_digest if self._raw_digest is not None else self.manifest.digest

    @property
    def tombstones(self) -> Mapping[str, Tombstone]:
        """Memories that Mem0 no longer has, by id; `memories` does not give them."""
        return self.manifest.tombstones

    @property
    def count(self) -> int:
        """How many memories `memories` gives."""
        return self.manifest.memories

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Rows of the last scan that are no memory, or an older copy of one, each with its reason."""
        return tuple(Skipped(id=row["id"], reason=row["reason"]) for row in self._lines(SKIPPED))

    def memories(self) -> Iterator[Memory]:
        """Every memory that Mem0 held, in no promised order, expired and archived ones with their state."""
        return (Memory.from_json(row) for row in self._lines(MEMORIES))

    def deleted(self) -> Iterator[Memory]:
        """The last known record of each memory that has a tombstone."""
        return (Memory.from_json(row) for row in self._lines(DELETED))

    def history(self) -> Iterator[dict[str, Json]]:
        """Mem0's history, where the export kept it."""
        return self._lines(HISTORY)

    def relations(self) -> Iterator[Json]:
        """Graph relations that lay beside the memories."""
        return self._lines(RELATIONS)

    def close(self) -> None:
        """Let go of its files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        """The dump itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def raw_lines(self, name: str) -> Iterator[tuple[bytes, dict[str, Json]]]:
        """Lines of a file of the dump as they stand, each with what it says.

        Raises InputError where somebody changed the file after it was checked.
        """
        for line in self._opened(name):
            yield line, json.loads(line)

    def _opened(self, name: str) -> Iterator[bytes]:
        file = self._files.get(name)
        if file is None:
            return
        if _stamp(file) != self._stamps[name]:
            raise InputError(f"{self.path / name} changed after it was opened", hint=AGAIN)
        yield from io.BufferedReader(_FromItsBeginning(file))

    def _lines(self, name: str) -> Iterator[dict[str, Json]]:
        return (row for _, row in self.raw_lines(name))


class _FromItsBeginning(io.RawIOBase):
    """One reading of an open file, whoever else reads it meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_dump(path: Path) -> Dump:
    """Open a dump directory; raises InputError where there is none, or it was cut off or altered."""
    looked_at = None
    while True:
        manifest = read_manifest(path)
        if manifest is None:
            raise InputError(f"there is no dump in {path}", hint="`spectron-migrate export` writes one")
        files: dict[str, BinaryIO] = {}
        try:
            for name in manifest.files:
                files[name] = _checked(path, name, manifest)
            return Dump(path, manifest, files)
        except InputError:
            for file in files.values():
                file.close()
            if looked_at == manifest.digest:
                raise
            looked_at = manifest.digest  # an export may be putting it in place just now: look once more


def open_any(paths: Sequence[Path], *, now: datetime | None = None) -> Dump:
    """A dump directory, or raw Mem0 files of any shape, behind one interface.

    `now` decides which memories of raw files have expired. Raises InputError where a file is no dump of Mem0.
    """
    directories = [path for path in paths if path.is_dir() or path.name == MANIFEST]
    if len(paths) == 1 and directories:
        return open_dump(paths[0].parent if paths[0].name == MANIFEST else paths[0])
    if directories:
        raise InputError(
            f"{directories[0]} is a directory beside other inputs", hint="name one dump directory, or raw files only"
        )
    return _open_raw(paths, now or datetime.now(UTC))


def _checked(path: Path, name: str, manifest: Manifest) -> BinaryIO:
    """The file as the manifest describes it, under its own name or still under the pending one."""
    told = manifest.files[name]
    if "/" in name or name.startswith("."):
        raise InputError(f"the manifest in {path} names the file {name}, which no dump has", hint=AGAIN)
    found = None
    for candidate in (path / name, path / pending_name(name, manifest.scan_id)):
        try:
            file = candidate.open("rb")
        except OSError:
            continue
        size = os.fstat(file.fileno()).st_size
        if size == told.size and hashlib.file_digest(file, "sha256").hexdigest() == told.sha256:
            return file
        file.close()
        found = found or (candidate, size)
    if found is None:
        raise InputError(f"{path / name} is missing from the dump", hint=AGAIN)
    what = "is cut off" if found[1] < told.size else "was altered"
    raise InputError(f"{found[0]} {what}: it is not the file its manifest describes", hint=AGAIN)


def _open_raw(paths: Sequence[Path], now: datetime) -> Dump:
    from spectron_migrate.dump.writer import DumpWriter
    from spectron_migrate.mem0.formats.files import FilesReader

    with Scratch() as scratch:
        folder = scratch / "dump"
        with FilesReader(paths, now=now) as reader, DumpWriter(folder, reader.info, now) as writer:
            for row in reader.rows():
                writer.give(row)
            for relation in reader.relations():
                writer.keep(RELATIONS, relation)
            writer.commit(complete=True, native_count=None, ended=now)
            missing = reader.missing()
            notes = list(reader.notes)
            if missing:
                which = counted(missing, "memory that the pages announce is", "memories that the pages announce are")
                notes.append(f"{which} missing")
        made = open_dump(folder)  # from here on its files have no name any more
    sums = sorted(_sha256(path) for path in paths)
    return Dump(paths[0], made.manifest, made._files, digest("raw", *sums), notes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(file: BinaryIO) -> Any:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
