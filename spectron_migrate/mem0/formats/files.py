"""Reads raw Mem0 files in any format and any mixture: plain, gzipped or in a zip archive.

Formats: lists, objects with `results`, `memories` or `records`, JSON Lines, pages of the Platform, responses of the
self-hosted server, the records file of Mem0's own OSS-to-Platform script, and OpenMemory's backup.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.formats.json_stream import JsonItem, read_items
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.records import Json, Memory, Skipped, SourceInfo

FILES = SourceInfo(kind="files", place="files", provider="files")
_FORMATS = "a list of memories, an object with results, memories or records, JSON Lines, or OpenMemory's zip"
_SUSPECT_SIZES = (20, 100, 1000)
"""The sizes at which Mem0's get_all and its server silently truncate a listing, by version."""

_BACKUP = "memories.json"
_LINES = "memories.jsonl.gz"


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
        self._with_relations: set[Path] = set()
        self._bytes_of_earlier_files = 0
        self._file: BinaryIO | None = None
        problems = [_problem(path) for path in self._paths]
        if not self._paths:
            raise InputError("no file of memories was named")
        if any(problems):
            raise InputError.of_all([problem for problem in problems if problem])

    def native_count(self) -> int | None:
        """None: files do not say how many rows there should be."""
        return None

    def progress_total(self) -> int:
        """Size of all files in bytes."""
        return sum(path.stat().st_size for path in self._paths)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        in_this_file = self._file.tell() if self._file is not None and not self._file.closed else 0
        return self._bytes_of_earlier_files + in_this_file

    def missing(self) -> int | None:
        """How many memories the pages of a listing announce that are not in the files."""
        return self._missing

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row of every file; a row without an id is identified by file and line."""
        self._missing = None
        self.notes.clear()
        announced: Counter[int] = Counter()
        self._bytes_of_earlier_files = 0
        for path in self._paths:
            with _open_file(path) as self._file:
                yield from self._rows_of(path, self._file, announced)
            self._bytes_of_earlier_files += path.stat().st_size
        self._missing = sum(max(0, count - rows) for count, rows in announced.items())

    def relations(self) -> Iterator[Json]:
        """Graph relations beside the rows; only the files that contain some are read again."""
        for path in sorted(self._with_relations):
            with _open_file(path) as file:
                for item in _items(path, file):
                    if item.kind == "relation":
                        yield item.value

    def _rows_of(self, path: Path, file: BinaryIO, announced: Counter[int]) -> Iterator[Memory | Skipped]:
        kept = total = in_envelope = 0
        first: tuple[int, str] | None = None
        for item in _items(path, file):
            if item.kind == "relation":
                self._with_relations.add(path)
            elif item.kind == "envelope":
                self._check_envelope(path, item.value, in_envelope, announced)
                in_envelope = 0
            else:
                total += 1
                in_envelope += 1
                row = normalise(_with_names(item), now=self._now)
                if isinstance(row, Skipped):
                    row = row if row.id else Skipped(id=f"{path}:{item.line}", reason=row.reason)
                    first = first or (item.line, row.reason)
                else:
                    kept += 1
                yield row
        if total and not kept and first is not None:
            raise InputError(
                f"{path} is JSON, but not a dump of Mem0: line {first[0]} is {_describe_reason(first[1])}",
                hint=f"known are {_FORMATS}",
            )

    def _check_envelope(self, path: Path, head: Mapping[str, Json], rows: int, announced: Counter[int]) -> None:
        count = head.get("count")
        if isinstance(count, int) and not isinstance(count, bool):
            announced[count] += rows
        elif rows in _SUSPECT_SIZES:
            self.notes.append(
                f"{path} holds exactly {rows} memories, the size at which Mem0 silently truncates a listing; "
                "export from the store itself to be sure"
            )


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder, not a file of memories"
    if not path.exists():
        return f"there is no file {path}"
    return f"{path} is empty: nothing was written to it" if path.stat().st_size == 0 else None


def _describe_reason(reason: str) -> str:
    return {
        "not an object": "not an object",
        "no id": "a row without an id",
        "no text field": "a row without a text",
    }.get(reason, reason)


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _items(path: Path, file: BinaryIO) -> Iterator[JsonItem]:
    """The items of one file; raises InputError with the name of a damaged archive."""
    try:
        with _open_streams(path, file) as streams:
            for name, open_stream in streams:
                with open_stream() as stream:
                    yield from read_items(stream, name)
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is a damaged archive: {error}", hint="it may be truncated; fetch or write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _open_streams(path: Path, file: BinaryIO) -> Iterator[list[tuple[str, Callable[[], BinaryIO]]]]:
    """The JSON streams in a file, each with its name for error messages."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        yield [(str(path), lambda: cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")))]
    elif magic == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            yield [(f"{path}:{name}", _member(archive, name)) for name in _members(archive, path)]
    else:
        yield [(str(path), lambda: file)]


def _members(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """The members to read: one of OpenMemory's backup, which holds each memory twice; otherwise all JSON files."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    by_base = {name.rsplit("/", 1)[-1]: name for name in names}
    if _BACKUP in by_base:
        return [by_base[_BACKUP]]
    if _LINES in by_base:
        return [by_base[_LINES]]
    found = [name for name in names if name.endswith((".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz"))]
    if not found:
        raise InputError(f"{path} is an archive without a JSON file in it", hint=f"known are {_FORMATS}")
    return found


def _member(archive: zipfile.ZipFile, name: str) -> Callable[[], BinaryIO]:
    def open_member() -> BinaryIO:
        stream = cast(BinaryIO, archive.open(name))
        return cast(BinaryIO, gzip.open(stream, "rb")) if name.endswith(".gz") else stream

    return open_member


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
