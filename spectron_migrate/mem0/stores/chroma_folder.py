"""An embedded Chroma folder, read from its `chroma.sqlite3`: ids and metadata, without Chroma's client.

Chroma writes to a queue first, and then to the tables that are read here. Rows that are only in the queue count as
missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.listed import ListedStore, Row
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb

_PAGE = 500
_METADATA = "id, key, string_value, int_value, float_value, bool_value"


class ChromaFolder(ListedStore):
    """One collection of an embedded Chroma."""

    def __init__(self, folder: Path, collection: str) -> None:
        """Open the folder; raises InputError if there is none."""
        super().__init__(collection, f"in {folder}")
        if not (folder / "chroma.sqlite3").is_file():
            raise InputError(f"there is no Chroma folder at {folder}", hint="name the folder Mem0 writes to")
        self._db = ReadOnlyDb(folder / "chroma.sqlite3")
        try:
            self._found = self._collections()
            tables = {row[0] for row in self._db.all("SELECT name FROM sqlite_master")}
        except BaseException:
            self._db.close()
            raise
        self._collection, self._segment = self._found.get(collection, ("", ""))
        self._has_lists = "embedding_metadata_array" in tables
        self._has_queue = {"embeddings_queue", "max_seq_id"} <= tables

    def exists(self) -> bool:
        return self.name in self._found

    def names(self) -> list[str]:
        return list(self._found)

    def count(self) -> int:
        """Number of embeddings in the collection, including those that are only in the queue."""
        held = self._db.one("SELECT count(*) FROM embeddings WHERE segment_id = ?", (self._segment,))
        return int(held) + self._queued()

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        """Every embedding in order of its number, which grows; each page in one transaction."""
        last = 0
        while True:
            with self._db.snapshot():
                page = self._db.all(
                    "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? AND id > ? ORDER BY id LIMIT ?",
                    (self._segment, last, _PAGE),
                )
                payloads = self._payloads(page[0][0], page[-1][0]) if page and payload else {}
            yield [Row(embedding_id, embedding_id, payloads.get(number)) for number, embedding_id in page]
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def fetch(self, keys: Sequence[str]) -> Iterator[Row]:
        for key in keys:
            with self._db.snapshot():
                sql = "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?"
                for (number,) in self._db.all(sql, (self._segment, key)):
                    yield Row(key, key, self._payloads(number, number).get(number))

    def close(self) -> None:
        self._db.close()

    def _payloads(self, first: int, last: int) -> dict[int, dict[str, Any]]:
        payloads: dict[int, dict[str, Any]] = {}
        for number, key, *values in self._db.all(
            f"SELECT {_METADATA} FROM embedding_metadata WHERE id BETWEEN ? AND ?", (first, last)
        ):
            payloads.setdefault(number, {})[key] = _value(values)
        if self._has_lists:
            for number, key, *values in self._db.all(
                f"SELECT {_METADATA} FROM embedding_metadata_array WHERE id BETWEEN ? AND ? ORDER BY rowid",
                (first, last),
            ):
                payloads.setdefault(number, {}).setdefault(key, []).append(_value(values))
        return payloads

    def _queued(self) -> int:
        """Number of ids whose last change is only in the queue; 0 in a store that was closed properly."""
        if not self._has_queue:
            return 0
        applied = self._db.all("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (self._segment,))
        upto = applied[0][0] if applied else 0
        after = int.from_bytes(upto, "big") if isinstance(upto, bytes) else upto  # bytes before Chroma 0.5
        return int(
            self._db.one(
                "SELECT count(DISTINCT id) FROM embeddings_queue WHERE topic LIKE ? AND seq_id > ?",
                (f"%/{self._collection}", after),
            )
        )

    def _collections(self) -> dict[str, tuple[str, str]]:
        """Id of the collection and of its segment of metadata, by name."""
        found = self._db.all(
            "SELECT c.name, c.id, s.id FROM collections c JOIN segments s ON s.collection = c.id "
            "WHERE s.scope = 'METADATA' ORDER BY c.id DESC"
        )
        return {name: (str(collection), str(segment)) for name, collection, segment in found}


def _value(values: list[Any]) -> Any:
    """The value in the one of four columns that is filled; None if the metadata was null."""
    text, whole, real, flag = values
    if flag is not None:
        return bool(flag)
    return next((value for value in (text, whole, real) if value is not None), None)
