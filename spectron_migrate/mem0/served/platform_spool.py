"""What a scan of the Platform has fetched so far, so that a cut connection does not cost it again."""

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
    """Pages by the window they belong to; only windows that were fetched whole are given back.

    The file's first line says which scan it is of. Another scan's, or one too old, is begun anew.
    """

    def __init__(self, folder: Path, scan: Mapping[str, Json]) -> None:
        """`scan` says what is read (address, account, filters): a spool of something else is not used."""
        self._path = folder / NAME
        self._scan = dict(scan)
        self._pages: dict[bytes, list[int]] = {}
        self._done: set[bytes] = set()
        self._counts: dict[bytes, int] = {}
        self._file: Any = None

    def began(self, now: datetime) -> datetime | None:
        """When the scan began that this spool is of; None where there is nothing to go on with."""
        head = next(self._lines(), None)
        if head is None or head[1].get("scan") != self._scan:
            return None
        began = parse_time(head[1]["began"])
        return began if now - began < _LONGEST_LIFE else None

    def open(self, began: datetime, *, resumed: bool) -> None:
        """Go on behind the last whole line, or begin anew."""
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
        """How many rows the windows that are here were counted to have."""
        return sum(self._counts.get(window, 0) for window in self._done)

    def pages(self, window: str) -> Iterator[list[Json]] | None:
        """The pages of a window that was fetched whole; None where it has to be fetched."""
        if _key(window) not in self._done:
            return None
        return (self._line_at(place)["rows"] for place in self._pages[_key(window)])

    def count(self, window: str) -> int | None:
        """How many rows the window was counted to have; None where it was not counted yet."""
        return self._counts.get(_key(window))

    def put_count(self, window: str, count: int) -> None:
        """The window was counted."""
        self._write({"window": window, "count": count})

    def put(self, window: str, rows: list[Json]) -> None:
        """A page, as it came."""
        self._write({"window": window, "rows": rows})

    def done(self, window: str) -> None:
        """All pages of the window are here."""
        self._write({"done": window})
        self._file.flush()

    def close(self) -> None:
        """Keep the file for the next try."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """The scan is in the dump: nothing to go on with."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, value: Json) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")

    def _index(self) -> int:
        """Which windows are whole, and where their pages stand; the end of the last whole line."""
        end = 0
        for place, line in self._lines():
            end = place
            if "rows" in line:
                self._pages.setdefault(_key(line["window"]), []).append(line["at"])
            elif "count" in line:
                self._counts[_key(line["window"])] = line["count"]
            elif "done" in line:
                self._done.add(_key(line["done"]))
        self._pages = {window: self._pages.get(window, []) for window in self._done}
        return end

    def _lines(self) -> Iterator[tuple[int, dict[str, Json]]]:
        """Each whole line with the place of its end; pages without their rows, but with their place (`at`)."""
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

    def _line_at(self, place: int) -> dict[str, Json]:
        with self._path.open("rb") as file:
            file.seek(place)
            value: dict[str, Json] = json.loads(file.readline())
            return value


def _key(window: str) -> bytes:
    """There are thousands of windows, and their names are long."""
    return hashlib.blake2b(window.encode(), digest_size=16).digest()
