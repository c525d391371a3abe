"""Reads the default store of Mem0 for TypeScript, provider `memory`: one SQLite file with the payloads as JSON.

Mem0 ignores its `collectionName`: the file holds a single table for all. Entities are in another file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ReaderBase
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb
from spectron_migrate.records import Memory, Skipped, SourceInfo

UNREADABLE = "a payload that is not a JSON object"
_PAGE = 500


class TypescriptSqlite(ReaderBase):
    """Reads every row of the table `vectors`."""

    def __init__(self, file: Path, info: SourceInfo, *, now: datetime) -> None:
        """Open the file; raises InputError if it does not exist or is another database."""
        super().__init__()
        self.info = info
        self._now = now
        if not file.is_file():
            raise InputError(
                f"there is no store of Mem0 for TypeScript at {file}",
                hint="name its file: `dbPath` of the vector store",
            )
        self._db = ReadOnlyDb(file)
        columns = {row[1] for row in self._db.all("PRAGMA table_info(vectors)")}
        if not {"id", "payload"} <= columns:
            self._db.close()
            raise InputError(f"{file} holds no table `vectors` of Mem0 for TypeScript", hint="check `dbPath`")

    def native_count(self) -> int:
        """Number of rows in the table."""
        return int(self._db.one("SELECT count(*) FROM vectors"))

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row, by rowid. A row that is added or replaced meanwhile gets a higher one, and comes later."""
        last = 0
        while page := self._db.all(
            "SELECT rowid, id, payload FROM vectors WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, _PAGE)
        ):
            for last, row_id, text in page:  # noqa: B007  (the last one is where the next page begins)
                yield self._row(row_id, text)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._db.close()

    def _row(self, row_id: str, text: str | bytes) -> Memory | Skipped:
        try:
            payload = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            payload = None
        if not isinstance(payload, Mapping):
            return Skipped(str(row_id), UNREADABLE, has_content=True)
        return from_payload(row_id, payload, now=self._now)
