"""Reads an embedded Qdrant folder from its `storage.sqlite`, page by page.

Nothing in the folder changes, no lock of Qdrant is taken, and an application may have it open and write meanwhile. So
after the last page, all keys are listed in one short transaction. If only a few rows changed or were added, they are
read in it too, so that the reading ends however steadily the application writes. If there are many, they are read after
it, and the keys are listed again.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from spectron_migrate.errors import Incomplete, InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ChangesReader, ReaderBase
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.mem0.stores.qdrant_changes import MOST_BYTES, MOST_CHANGED, Listing, QdrantChanges
from spectron_migrate.mem0.stores.qdrant_pickle import (
    UUID_TEXT,
    UnreadablePoint,
    canonical_point_id,
    read_key,
    read_point,
)
from spectron_migrate.mem0.stores.qdrant_scan import QdrantScan, Span
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb, identity
from spectron_migrate.records import Memory, Skipped, SourceInfo

OUTDATED = "outdated copy of the same point, which the store itself no longer reads"
UNREADABLE = "unreadable row"
_PAGE = 250
_LISTINGS = 50
_EMPTY_FILE_PAGES = 3
"""How many pages SQLite needs for an empty table and its index."""

_KEY_LENGTH = 68
_KEY_START = "gASVKAAAAAAAAACMJ"
"""The common prefix of all pickled UUID keys, in base64."""

_UUID_LENGTH = 36
_UUIDS = re.compile(f"(?:{UUID_TEXT.pattern})*")

_CANONICAL = re.compile(rb"\x80([\x04\x05])\x95\x28\0{7}\x8c\x24([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\x94\.")
"""The pickled key of a UUID as every client writes it, in pickle protocol 4 or 5."""


class QdrantFolder(ReaderBase):
    """Reads one collection of an embedded Qdrant."""

    def __init__(self, folder: Path, collection: str, info: SourceInfo, *, now: datetime) -> None:
        """Open the collection; raises InputError if the folder or the collection does not exist."""
        super().__init__()
        self.info = info
        self._now = now
        self._missing: int | None = None
        self._copies: dict[Any, int] | None = None
        self._listing: Listing | None = None
        self._find = partial(_storage_file, folder, collection)
        self._file = self._find()
        self._identity = identity(self._file)
        self._db = ReadOnlyDb(self._file)
        try:
            self._schema = int(self._db.one("PRAGMA schema_version"))
            self._check_not_erased(folder, collection)
        except BaseException:
            self._db.close()
            raise

    def native_count(self) -> int:
        """Number of rows in the file, outdated copies included."""
        return int(self._db.one("SELECT count(*) FROM points"))

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row. A row that is rewritten during the scan comes again with its new content."""
        self._missing, self._listing = None, None
        version = self._db.one("PRAGMA data_version")
        self._copies = self._newest_copies() if self._has_unusual_keys() else None
        scan = QdrantScan()
        pages: Iterable[tuple[int, list[tuple[Any, ...]]]] = self._pages(
            [(0, self._db.one("SELECT max(rowid) FROM points"))]
        )
        is_whole = False
        for _ in range(_LISTINGS):
            for after, rows in pages:
                given, ids = self._converted(rows)
                yield from given
                scan.add(after, rows, ids)
            if is_whole or version == self._db.one("PRAGMA data_version"):
                self._missing = 0
                self._listing = None if self._copies else scan.listing()
                return
            with self._db.snapshot():
                spans = scan.compare(self._db)
                is_whole = self._are_few(spans)
                pages = list(self._pages(spans)) if is_whole else self._pages(spans)

    def rows_beside(self) -> Iterator[Memory | Skipped]:
        """One pass without a listing of the keys, because a point that is written meanwhile moves to the end."""
        self._missing, self._listing = None, None
        self._copies = self._newest_copies() if self._has_unusual_keys() else None
        for _, rows in self._pages([(0, None)]):
            yield from (self._row(*row) for row in rows)

    def missing(self) -> int | None:
        """0 if the last listing of all keys found no row that was not read."""
        return self._missing

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._db.close()

    def changes(self) -> ChangesReader | None:
        """A reader of changes after the last listing. None if a point has several rows, or an id that is no UUID."""
        if self._listing is None:
            return None
        if self.history is not None and not isinstance(self.history, HistoryFile):
            return None
        history, self.history = self.history, None
        return QdrantChanges(
            self._file, self._find, self._listing, history, identity=self._identity, schema=self._schema
        )

    def _pages(self, spans: Iterable[Span]) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """Pages of rows, each with the rowid that it follows."""
        for after, until in spans:
            while True:
                rows = self._db.all(
                    "SELECT rowid, id, point FROM points WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?",
                    (after, until if until is not None else 2**63 - 1, _PAGE),
                )
                if not rows:
                    break
                yield after, rows
                after = rows[-1][0]

    def _are_few(self, spans: Iterable[Span]) -> bool:
        """Whether these rows may be read while Mem0 waits to write."""
        count = size = 0
        for after, until in spans:
            [(number, length)] = self._db.all(
                "SELECT count(*), sum(length(point)) FROM points WHERE rowid > ? AND rowid <= ?",
                (after, until if until is not None else 2**63 - 1),
            )
            count, size = count + number, size + (length or 0)
        return count <= MOST_CHANGED and size <= MOST_BYTES

    def _converted(self, rows: list[tuple[Any, ...]]) -> tuple[list[Memory | Skipped], bytes]:
        """The rows of a page, and the packed ids (see `_packed`).

        Usually all rows are readable and have UUIDs in the canonical spelling, and none is an outdated copy.
        """
        if not self._copies:
            with suppress(UnreadablePoint):
                points = [read_point(blob) for _, _, blob in rows]
                ids = _packed([point_id for point_id, _ in points])
                if ids:
                    return [from_payload(point_id, payload, now=self._now) for point_id, payload in points], ids
        given = [self._row(*row) for row in rows]
        return given, _packed([row.id for row in given])

    def _row(self, rowid: int, key: str, blob: bytes) -> Memory | Skipped:
        try:
            point_id, payload = read_point(blob)
        except UnreadablePoint as error:
            return Skipped(id=_id_of_key(key), reason=f"{UNREADABLE}: {error}", has_content=True)
        canonical_id = canonical_point_id(point_id)
        if self._copies is None and canonical_id != point_id:
            self._copies = self._newest_copies()
        if self._copies and self._copies.get(canonical_id, rowid) > rowid:
            return Skipped(id=str(point_id), reason=OUTDATED)
        return from_payload(canonical_id, payload, now=self._now)

    def _has_unusual_keys(self) -> bool:
        """Whether any key is not a UUID in the usual pickle, judged by length and prefix; `_row` checks the rest."""
        sql = "SELECT EXISTS (SELECT 1 FROM points WHERE length(id) <> ? OR substr(id, 1, ?) <> ?)"
        return bool(self._db.one(sql, (_KEY_LENGTH, len(_KEY_START), _KEY_START)))

    def _newest_copies(self) -> dict[Any, int]:
        """For each point with several rows, the row that counts: the one written last.

        Old clients kept a row for each spelling of a UUID. Nearly every store has none, so only keys with an unusual
        spelling are held in memory.
        """
        unusual: dict[Any, int] = {}
        protocols: set[bytes] = set()
        for rowid, key in self._db.stream("SELECT rowid, id FROM points"):
            usual = _CANONICAL.fullmatch(_decoded(key))
            if usual is not None:
                protocols.add(usual.group(1))
                continue
            point_id = canonical_point_id(_id_of_key(key))
            unusual[point_id] = max(rowid, unusual.get(point_id, 0))
        if not unusual and len(protocols) < 2:
            return {}
        copies: dict[Any, int] = dict(unusual)
        seen_twice = len(protocols) == 2
        for rowid, key in self._db.stream("SELECT rowid, id FROM points ORDER BY rowid"):
            usual = _CANONICAL.fullmatch(_decoded(key))
            if usual is None:
                continue
            point_id = usual.group(2).decode()
            if point_id in copies or seen_twice:
                copies[point_id] = max(rowid, copies.get(point_id, 0))
        return copies

    def _check_not_erased(self, folder: Path, collection: str) -> None:
        """Raise Incomplete for a file without rows that is larger than an empty table, because it was erased."""
        if not self._db.one("SELECT count(*) FROM sqlite_master WHERE name = 'points'"):
            raise InputError(f"{self._file} holds no table of points", hint="is it an embedded Qdrant's file?")
        if self.native_count() == 0 and int(self._db.one("PRAGMA page_count")) > _EMPTY_FILE_PAGES:
            raise Incomplete(
                f"collection {collection} in {folder} reads as empty, but its file holds "
                f"{self._file.stat().st_size:,} bytes",
                hint="its memories were deleted or the store was erased; export from a backup of the folder",
            )


def _storage_file(folder: Path, collection: str) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"there is no Qdrant folder at {folder}",
            hint="`path` of the vector store is relative to where Mem0 runs; name the folder Mem0 writes to",
        )
    known, aliases = _collections(folder)
    name = aliases.get(collection, collection)
    file = folder / "collection" / name / "storage.sqlite"
    if name in known and file.is_file():
        return file
    if name in known and (folder / "collection" / name / "storage.dbm").exists():
        raise InputError(
            f"collection {name} in {folder} is stored in the format of qdrant-client before 1.1.7",
            hint="open a copy of the folder once with a qdrant-client that still migrates it",
        )
    listed = ", ".join(sorted(known)) or "none at all"
    raise InputError(f"there is no collection {collection} in {folder}", hint=f"collections there: {listed}")


def _collections(folder: Path) -> tuple[set[str], dict[str, str]]:
    """The names of the collections, from the folders, and their aliases, from `meta.json`."""
    found = {path.parent.name for path in folder.glob("collection/*/storage.*")}
    aliases: dict[str, str] = {}
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        aliases = {str(alias): str(name) for alias, name in dict(meta.get("aliases") or {}).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        pass  # without aliases; a collection named by one is then reported as missing
    return found, aliases


def _packed(ids: list[Any]) -> bytes:
    """16 bytes for each id; empty if any is no UUID in its canonical spelling."""
    try:
        joined = "".join(ids)
    except TypeError:
        return b""
    if set(map(len, ids)) != {_UUID_LENGTH} or not _UUIDS.fullmatch(joined):
        return b""
    return bytes.fromhex(joined.replace("-", ""))


def _decoded(key: Any) -> bytes:
    try:
        return binascii.a2b_base64(key)
    except (binascii.Error, ValueError, TypeError):
        return b""


def _id_of_key(key: Any) -> str:
    try:
        return str(read_key(_decoded(key)))
    except UnreadablePoint:
        return str(key)
