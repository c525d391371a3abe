"""Reads raw Mem0 files in any format and any mixture: plain, gzipped or in a zip archive.

Formats: lists, objects with `results`, `memories` or `records`, JSON Lines, pages of the Platform, responses of the
self-hosted server, the records file of Mem0's own OSS-to-Platform script, and OpenMemory's backup.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.archives import open_file, streams_of
from spectron_migrate.mem0.formats.envelopes import JsonItem
from spectron_migrate.mem0.formats.json_stream import read_items
from spectron_migrate.mem0.formats.listings import Listings
from spectron_migrate.mem0.formats.other_shapes import advice, describe
from spectron_migrate.mem0.normalise import LIST_LEFT_OUT, NO_ID, normalise
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.mem0.seen_ids import SeenMemories
from spectron_migrate.records import Json, Memory, Skipped, SourceInfo, counted, name_first

FILES = SourceInfo(kind="files", place="files", provider="files")
_SUSPECT_SIZES = (20, 100, 200, 1000)
"""The sizes at which Mem0's get_all and its server silently truncate a listing, in their versions."""

FILE_LEFT_OUT = "a file in an archive that is not read"
LINE_WITHOUT_MEMORY = "a memory that is in a backup's memories.jsonl.gz, and not in its memories.json"
_BATCH = 250


class FilesReader(ReaderBase):
    """Reads all rows of the given files, in order."""

    rereads = False

    def __init__(self, paths: Sequence[Path], *, now: datetime) -> None:
        """Raises InputError for all files that are missing or empty."""
        super().__init__()
        self.info = FILES
        self._paths = tuple(paths)
        self._now = now
        self._missing: int | None = None
        self._total: int | None = None
        self._with_relations: set[Path] = set()
        self._bytes_of_earlier_files = 0
        self._file: BinaryIO | None = None
        self._scored = self._of_nobody = 0
        """How many memories had the score of a search, and how many named no owner."""
        problems = [_problem(path) for path in self._paths]
        if not self._paths:
            raise InputError("no file of memories was named")
        if any(problems):
            raise InputError.of_all([problem for problem in problems if problem])

    def native_count(self) -> int | None:
        """The totals that the pages announce, if each was reached; None if that cannot be shown."""
        return self._total

    def progress_total(self) -> int:
        """Size of all files in bytes."""
        return sum(path.stat().st_size for path in self._paths)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        in_this_file = self._file.tell() if self._file is not None and not self._file.closed else 0
        return self._bytes_of_earlier_files + in_this_file

    def missing(self) -> int | None:
        """The least number of memories that pages announce and that are not in the files."""
        return self._missing

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row of every file; a row without an id is identified by file and line."""
        self._missing = self._total = None
        self._scored = self._of_nobody = 0
        self.notes.clear()
        self.unproven = ""
        self._bytes_of_earlier_files = 0
        with closing(Listings()) as listings, closing(SeenMemories()) as seen:
            for path in self._paths:
                with open_file(path) as self._file:
                    yield from self._rows_of(path, listings, seen)
                self._bytes_of_earlier_files += path.stat().st_size
            listings.finish()
            if self._of_nobody and self._of_nobody == seen.count():
                self.notes.append(
                    f"no owner (user_id, agent_id, app_id, run_id) is named by {counted(self._of_nobody, 'memory')}; "
                    "if the name of the file says whose they are: `jq 'map(.user_id = \"alice\")' FILE`"
                )
            unread = seen.not_seen(listings.next_ids())
            self._missing = listings.missing or len(unread)
            self._total = None if unread else listings.total
            self.notes.extend(dict.fromkeys(listings.notes))
            if not self._missing and self._total is None:
                self.unproven = "the files do not say how many memories there are"
                if self._scored and self._scored == seen.count():
                    self.notes.append(
                        "each memory has a score: a search wrote these files, and a search gives only the best; "
                        "export the store or a listing to be sure"
                    )
                self.notes.extend(_suspect_owners(seen))

    def relations(self) -> Iterator[Json]:
        """Graph relations beside the rows. Only files that contain some are read again."""
        for path in sorted(self._with_relations):
            for item in _items(path):
                if item.kind == "relation":
                    yield item.value

    def _rows_of(self, path: Path, listings: Listings, seen: SeenMemories) -> Iterator[Memory | Skipped]:
        kept = total = loose = 0
        first: tuple[int, Json] | None = None
        batch: list[Memory] = []
        copies: list[str] = []
        for item in _items(path, self._file):
            if item.kind == "row":
                total, loose = total + 1, loose + (item.listing == 0)
                row = normalise(_with_names(item), now=self._now, head=item.head, is_plain=True)
                if isinstance(row, Skipped):
                    row = row if row.id else replace(row, id=f"{path}:{item.line}")
                    first = first or (item.line, item.value)
                    owner = None
                    if row.reason == NO_ID and listings.counters(item.listing, item.value):
                        yield row
                        continue
                else:
                    kept += 1
                    batch.append(row)
                    owner = f"user_id {row.user_id}" if row.user_id is not None else _other_owner(row)
                    self._of_nobody += owner is None
                    self._scored += type(item.value.get("score")) in (int, float)
                listings.add(item.listing, item.head, row.id, owner)
                if len(batch) >= _BATCH:
                    seen.add(batch)
                    batch = []
                yield row
            elif item.kind == "relation":
                self._with_relations.add(path)
            elif item.kind == "envelope":
                listings.end(item.listing, item.value, f"{path}, the list that ends in line {item.line},")
            elif item.kind == "left_out":
                yield Skipped(f"{path}:{item.line}:{item.value}", LIST_LEFT_OUT, has_content=True)
            elif item.kind == "unread":
                yield Skipped(f"{path}:{item.value}", FILE_LEFT_OUT, has_content=True)
            elif item.kind == "copy":
                copies.append(normalise(item.value, now=self._now).id)
        seen.add(batch)
        for missing in seen.not_seen(copies):
            yield Skipped(missing, LINE_WITHOUT_MEMORY, has_content=True)
        if loose:
            listings.end(0, None, str(path))
        if total and not kept and first is not None:
            raise InputError(
                f"{path} is JSON, but not a dump of Mem0: line {first[0]} is {describe(first[1])}",
                hint=advice(first[1]),
            )


def _other_owner(memory: Memory) -> str | None:
    return next((f"{name} {value}" for name, value in memory.entity_ids.items()), None)


def _suspect_owners(seen: SeenMemories) -> Iterator[str]:
    """Owners with exactly as many memories as one truncated listing of Mem0 holds."""
    owners = seen.owners_with(_SUSPECT_SIZES)
    if owners:
        named = name_first([f"{kind} {owner} ({rows:,})" for kind, owner, rows in owners])
        yield (
            f"exactly as many memories as a listing that Mem0 silently truncates: {named}; "
            "export from the store itself to be sure"
        )
    elif seen.count() in _SUSPECT_SIZES:
        yield (
            f"the files hold exactly {counted(seen.count(), 'memory')}, the size at which Mem0 silently truncates a"
            " listing; export from the store itself to be sure"
        )


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder, not a file of memories; name its files, or the store with `--mem0-config`"
    if str(path) == "-" or (path.exists() and not path.is_file()):
        return f"{path} is no file but a pipe, and files are read more than once: write it into a file first"
    if not path.exists():
        return f"there is no file {path}"
    return f"{path} is empty: nothing was written to it" if path.stat().st_size == 0 else None


def _items(path: Path, file: BinaryIO | None = None) -> Iterator[JsonItem]:
    """The items of one file. `file`, if it is already open, shows how far the reading has come.

    Raises InputError with the name of a damaged archive.
    """
    try:
        with open_file(path) if file is None else nullcontext(file) as opened:
            streams, unread = streams_of(path, opened)
            for stream in streams:
                if not stream.again:
                    yield from read_items(stream.open, stream.name)
                    continue
                for item in read_items(stream.open, stream.name):
                    yield replace(item, kind="copy" if item.kind == "row" else "none")
            for name in unread:
                yield JsonItem("unread", name, 0)
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is a damaged archive: {error}", hint="it may be truncated; fetch or write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _with_names(item: JsonItem) -> Any:
    """A row of OpenMemory's backup with the names of its user, app and categories instead of their database ids."""
    head, row = item.head, item.value
    user = head.get("user") if head else None
    if head is None or not isinstance(user, dict) or not isinstance(row, dict) or "content" not in row:
        return row
    named = dict(row)
    if row.get("user_id") in (None, user.get("id")):
        named["user_id"] = user.get("user_id")
    apps = _names(head.get("apps"))
    if row.get("app_id") in apps:
        named["app"] = apps[row["app_id"]]
    categories = _names(head.get("categories"))
    ids = row.get("category_ids")
    if isinstance(ids, list) and "categories" not in row and all(one in categories for one in ids):
        named["categories"] = [categories[one] for one in ids]
    return named


def _names(section: Any) -> dict[Any, str]:
    if not isinstance(section, list):
        return {}
    return {
        entry["id"]: entry["name"]
        for entry in section
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("name"), str)
    }
