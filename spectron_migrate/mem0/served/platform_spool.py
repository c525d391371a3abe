"""Pages that a scan of the Platform has fetched, kept in a file so that an interrupted scan can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from spectron_migrate.records import Json, format_time, parse_time

NAME = ".scan"
_LONGEST_LIFE = timedelta(hours=24)


class Spool:
    """The pages of each listing. Only listings that were fetched completely are reused.

    The first line of the file identifies the scan. A file of another scan, or one older than a day, is overwritten.
    """

    def __init__(self, folder: Path, scan: Mapping[str, Json]) -> None:
        """`scan` identifies what is read (address, account, filters)."""
        self._path = folder / NAME
        self._scan = dict(scan)
        self._pages: dict[bytes, list[int]] = {}
        self._done: set[bytes] = set()
        self._counts: dict[bytes, int] = {}
        self._file: Any = None

    def began(self, now: datetime) -> datetime | None:
        """Start of the scan that can be resumed; None if there is none."""
        head = next(self._lines(), None)
        if head is None or head[1].get("scan") != self._scan:
            return None
        began = parse_time(head[1]["began"])
        return began if now - began < _LONGEST_LIFE else None

    def open(self, began: datetime, *, resumed: bool) -> None:
        """Append after the last complete line, or start a new file."""
        self._pages, self._done, self._counts = {}, set(), {}
        if resumed:
            end = self._index()
            self._file = self._path.open("r+b")
            self._file.truncate(end)
            self._file.seek(end)
        else:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b")
            self._write({"scan": self._scan, "began": format_time(began)})

    def __len__(self) -> int:
        """Number of rows in the complete listings."""
        return sum(self._counts.get(listing, 0) for listing in self._done)

    def pages(self, listing: str) -> Iterator[list[Json]] | None:
        """The pages of a listing that was fetched completely; None if it has to be fetched."""
        if _key(listing) not in self._done:
            return None
        return (self._line_at(offset)["rows"] for offset in self._pages[_key(listing)])

    def count(self, listing: str) -> int | None:
        """The recorded number of rows of a listing; None if it was not counted yet."""
        return self._counts.get(_key(listing))

    def set_count(self, listing: str, count: int) -> None:
        """Record the number of rows of a listing."""
        self._write({"window": listing, "count": count})

    def add_page(self, listing: str, rows: list[Json]) -> None:
        """Record a page."""
        self._write({"window": listing, "rows": rows})

    def mark_complete(self, listing: str) -> None:
        """Record that all pages of the listing were fetched."""
        self._write({"done": listing})
        self._file.flush()

    def close(self) -> None:
        """Close the file and keep it for the next attempt."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file, because the scan is in the dump."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, value: Json) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")

    def _index(self) -> int:
        """Index the complete listings and the offsets of their pages; returns the end of the last complete line."""
        end = 0
        for line_end, line in self._lines():
            end = line_end
            if "rows" in line:
                self._pages.setdefault(_key(line["window"]), []).append(line["at"])
            elif "count" in line:
                self._counts[_key(line["window"])] = line["count"]
            elif "done" in line:
                self._done.add(_key(line["done"]))
        self._pages = {listing: self._pages.get(listing, []) for listing in self._done}
        return end

    def _lines(self) -> Iterator[tuple[int, dict[str, Json]]]:
        """Each complete line with the offset of its end; a page without its rows, but with its own offset (`at`)."""
        try:
            file = self._path.open("rb")
        except OSError:
            return
        with file:
            at = 0
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    return
                if not line.endswith(b"\n") or not isinstance(value, dict):
                    return
                if "rows" in value:
                    value = {**value, "rows": None, "at": at}
                at += len(line)
                yield at, value

    def _line_at(self, offset: int) -> dict[str, Json]:
        with self._path.open("rb") as file:
            file.seek(offset)
            value: dict[str, Json] = json.loads(file.readline())
            return value


def _key(listing: str) -> bytes:
    """A short key, because there are thousands of listings, and their names (filters as JSON) are long."""
    return hashlib.blake2b(listing.encode(), digest_size=16).digest()
