"""The JSON streams in a file: plain, gzipped, or the members of a zip archive."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.other_kinds import refuse_other_kinds

_BACKUP = "memories.json"
_LINES = "memories.jsonl.gz"
_JSON = (".json", ".jsonl", ".ndjson")
_DATA = (
    *(".csv", ".tsv", ".parquet", ".db", ".sqlite", ".sqlite3", ".sql", ".xlsx", ".zip", ".tar", ".tgz", ".gz", ".bz2"),
    *(".xz", ".zst", ".pkl", ".bson", ".arrow", ".avro", ".snapshot"),
)
"""Endings of files that may hold memories."""


@dataclass(frozen=True, slots=True)
class JsonStream:
    """A JSON stream."""

    name: str
    """For error messages."""
    open: Callable[[], BinaryIO]
    """Opens it from the start, any number of times."""
    again: str = ""
    """The stream that has the same memories; this one counts only for what that one lacks. Empty if there is none."""


def streams_of(path: Path, file: BinaryIO) -> tuple[list[JsonStream], list[str]]:
    """The streams to read in an open file, and the names of members that may hold memories and are not read.

    Raises InputError for a file that is not JSON, and for an archive without any JSON.
    """
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        zipped = iter([cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))])
        with gzip.open(path, "rb") as unzipped:
            refuse_other_kinds(str(path), cast(BinaryIO, unzipped))
        return [JsonStream(str(path), lambda: next(zipped, None) or cast(BinaryIO, gzip.open(path, "rb")))], []
    if magic == b"PK\x03\x04":
        return _members(zipfile.ZipFile(file), path)
    refuse_other_kinds(str(path), file)
    plain = iter([file])
    return [JsonStream(str(path), lambda: next(plain, None) or open_file(path))], []


def open_file(path: Path) -> BinaryIO:
    """Raises InputError for a file that cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[list[JsonStream], list[str]]:
    """All JSON members.

    OpenMemory's backup holds each memory twice; its JSON Lines come second, for what its JSON lacks.
    """
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    read = [name for name in names if name.lower().removesuffix(".gz").endswith(_JSON)]
    unread = [name for name in names if name not in read and name.lower().endswith(_DATA)]
    if not read:
        raise InputError(
            f"{path} is an archive without a JSON file in it: it holds {', '.join(names[:5]) or 'nothing'}",
            hint="unpack it, and name the store or files of memories as JSON",
        )
    streams = []
    for name in sorted(read, key=lambda each: (each.endswith(_LINES), names.index(each))):
        folder, _, base = name.rpartition("/")
        backup = f"{folder}/{_BACKUP}" if folder else _BACKUP
        again = f"{path}:{backup}" if base == _LINES and backup in read else ""
        with _open_member(archive, name) as opened:
            refuse_other_kinds(f"{path}:{name}", opened)
        streams.append(JsonStream(f"{path}:{name}", partial(_open_member, archive, name), again))
    return streams, unread


def _open_member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    stream = cast(BinaryIO, archive.open(name))
    return cast(BinaryIO, gzip.open(stream, "rb")) if name.endswith(".gz") else stream
