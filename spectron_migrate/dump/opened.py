"""A dump opened for reading, with every file checked against the manifest."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from spectron_migrate.dump.changes import is_changes, last_lines, read_manifest
from spectron_migrate.dump.checksums import Checksums
from spectron_migrate.dump.manifest import (
    DELETED,
    EXPORT_AGAIN,
    HISTORY,
    MEMORIES,
    SKIPPED,
    Manifest,
    Tombstone,
    pending_name,
)
from spectron_migrate.errors import InputError
from spectron_migrate.fast_json import loads
from spectron_migrate.records import Json, Memory, Skipped, SourceInfo, reason_key


class Dump:
    """A dump whose files were checked when it was opened.

    Memories are streamed, never all held in memory. Its files stay open, so it stays the same dump even if an export
    replaces it.
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
        """Reasons to doubt that raw files are complete; empty for a dump directory, whose export has reported them."""
        self.manifest = manifest
        self._files = files
        self._stamps = {name: _stamp(file) for name, file in files.items()}
        self._raw_digest = raw_digest
        self._over: dict[str, tuple[bytes, bool]] | None = None

    @property
    def raw(self) -> bool:
        """True for raw Mem0 files: when and how completely Mem0 was read is unknown."""
        return self._raw_digest is not None

    @property
    def source(self) -> SourceInfo:
        """The Mem0 that it came from."""
        return self.manifest.source

    @property
    def began(self) -> str | None:
        """Start of the oldest scan that a memory in the dump comes from; None if no scan time is known."""
        return None if self.source.kind == "files" else self.manifest.began

    @property
    def complete(self) -> bool | None:
        """Whether the dump is shown to be complete; None if that is not provable, as for raw files at best."""
        complete = self.manifest.completeness
        return None if self.raw and complete else complete

    @property
    def relations(self) -> int:
        """How many graph relations it holds, which are not moved."""
        return self.manifest.relations

    @property
    def whole(self) -> bool:
        """Whether all of Mem0 was read at least once, without a filter."""
        return self.manifest.whole and not self.raw

    @property
    def digest(self) -> str:
        """Digest of the manifest, or of the raw files; equal digests mean equal memories."""
        return self._raw_digest if self._raw_digest is not None else self.manifest.digest

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Digests of the dumps that it was brought up to date from, newest first; raw files have none."""
        return () if self.raw else self.manifest.ancestors

    @property
    def tombstones(self) -> Mapping[str, Tombstone]:
        """Tombstones of memories that Mem0 no longer has, by id; `memories` does not yield these."""
        return self.manifest.tombstones

    @property
    def count(self) -> int:
        """How many memories `memories` yields."""
        return self.manifest.memories

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Rows of the last scan that are not a memory, or are an older copy of one, each with its reason."""
        return tuple(Skipped(id=row["id"], reason=row["reason"]) for row in self._lines(SKIPPED))

    @property
    def left_out(self) -> Iterator[Skipped]:
        """How many of the skipped rows had content, by reason. Then a memory is missing."""
        return (row for row in self.skipped if reason_key(row.reason) in self.manifest.left_out)

    def memories(self) -> Iterator[Memory]:
        """Every memory that Mem0 held, expired and archived ones included, in no particular order."""
        return (Memory.from_json(row) for row in self._lines(MEMORIES))

    def history(self) -> Iterator[dict[str, Json]]:
        """Mem0's history, if the export kept it."""
        return self._lines(HISTORY)

    def as_raw(self, path: Path, digest: str, notes: Sequence[str]) -> Dump:
        """The same memories as a dump of raw files, which takes over the open files of this one."""
        return Dump(path, self.manifest, self._files, digest, notes)

    def close(self) -> None:
        """Close its files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def raw_lines(self, name: str) -> Iterator[tuple[bytes, dict[str, Json]]]:
        """Lines of a file of the dump, each as bytes and decoded, with what later rounds changed.

        Raises InputError if the file was changed after it was checked.
        """
        over = self._changed_lines() if name in (MEMORIES, DELETED) else {}
        for line in self.lines_without_changes(name):
            row = loads(line)
            if not over or row["id"] not in over:
                yield line, row
        for line, is_there in over.values():
            if is_there == (name == MEMORIES):
                yield line, loads(line)

    def encoded_lines(self, name: str) -> Iterator[bytes]:
        """As `raw_lines`, for who decodes only some of them."""
        if name in (MEMORIES, DELETED) and self._changed_lines():
            return (line for line, _ in self.raw_lines(name))
        return self.lines_without_changes(name)

    def _changed_lines(self) -> dict[str, tuple[bytes, bool]]:
        """What files of changes say, by id; see `changes.last_lines`."""
        if self._over is None:
            self._over = last_lines(
                {name: self.lines_without_changes(name) for name in self._files if is_changes(name)}
            )
        return self._over

    def lines_without_changes(self, name: str) -> Iterator[bytes]:
        """Lines of one file alone. Raises InputError if it was changed after it was checked."""
        file = self._files.get(name)
        if file is None:
            return
        if _stamp(file) != self._stamps[name]:
            raise InputError(f"{self.path / name} changed after it was opened", hint=EXPORT_AGAIN)
        yield from io.BufferedReader(_IndependentReader(file))

    def _lines(self, name: str) -> Iterator[dict[str, Json]]:
        return (row for _, row in self.raw_lines(name))


class _IndependentReader(io.RawIOBase):
    """Reads an open file from the start, with a position of its own."""

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
    """Open a dump directory; raises InputError if there is none, or if it is truncated or altered.

    A file that was checked before and has not been touched since is not read again.
    """
    tried = None
    checksums = Checksums(path)
    while True:
        manifest = read_manifest(path)
        if manifest is None:
            raise InputError(f"there is no dump in {path}", hint="`spectron-migrate export` writes one")
        files: dict[str, BinaryIO] = {}
        try:
            for name in manifest.files:
                files[name] = _checked(path, name, manifest, checksums)
            checksums.keep()
            return Dump(path, manifest, files)
        except InputError:
            for file in files.values():
                file.close()
            if tried == manifest.digest:
                raise
            tried = manifest.digest  # an export may be replacing the dump at this moment: try once more


def _checked(path: Path, name: str, manifest: Manifest, checksums: Checksums) -> BinaryIO:
    """The file as the manifest describes it, under its final name or still under the pending one."""
    expected = manifest.files[name]
    if "/" in name or name.startswith("."):
        raise InputError(f"the manifest in {path} names the file {name}, which no dump has", hint=EXPORT_AGAIN)
    found = None
    for candidate in (path / name, path / pending_name(name, manifest.scan_id)):
        try:
            file = candidate.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"{candidate} cannot be read: {error.strerror}") from error
        size = os.fstat(file.fileno()).st_size
        if size == expected.size and checksums.sha256(file) == expected.sha256:
            return file
        file.close()
        found = found or (candidate, size)
    if found is None:
        raise InputError(f"{path / name} is missing from the dump", hint=EXPORT_AGAIN)
    what = "is truncated" if found[1] < expected.size else "was altered"
    raise InputError(f"{found[0]} {what}: it is not the file its manifest describes", hint=EXPORT_AGAIN)


def _stamp(file: BinaryIO) -> Any:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
