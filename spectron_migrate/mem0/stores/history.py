"""Mem0's `history.db`: when the current text of a memory was written, and which memories were deleted.

Nothing else records that time, because `updated_at` changes with an edit of metadata too, and Mem0 before 2.0 sets it
on every update. Several stores may share the file, and writes of other processes may be missing from it, so a row
counts only if its text is exactly the text in the store.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from spectron_migrate.errors import InputError
from spectron_migrate.mem0.stores.config_spellings import TYPESCRIPT
from spectron_migrate.mem0.stores.oss_config import MEMORY, from_environment
from spectron_migrate.mem0.stores.sqlite_readonly import ReadOnlyDb, identity, is_later_state, is_wal
from spectron_migrate.mem0.times import utc_time
from spectron_migrate.records import Json, to_bytes

_PAGE = 2000
_MOST_NEW = 100_000
"""If there are more new events than this, everything is read."""
_COLUMNS = (
    "id",
    "memory_id",
    "old_memory",
    "new_memory",
    "event",
    "created_at",
    "updated_at",
    "is_deleted",
    "actor_id",
    "role",
)
_TABLES: dict[str, dict[str, str]] = {
    "history": {},
    "memory_history": {"old_memory": "previous_value", "new_memory": "new_value", "event": "action"},
}
"""The tables of Mem0 for Python and for TypeScript, with their names for our columns where they differ."""


class HistoryFile:
    """One history file, with an index by memory in a temporary file, so that the process's memory stays small."""

    def __init__(self, path: Path) -> None:
        """Open an existing file; raises InputError if it is not a history of Mem0."""
        self.path = path
        self._identity = identity(path)
        self._last = 0
        self._last_row: dict[str, Json] | None = None
        self._db = ReadOnlyDb(path)
        self._schema = self._db.one("PRAGMA schema_version")
        try:
            self._columns = self._known_columns()
            self._index = self._build_index()
        except BaseException:
            self.close()
            raise

    def text_at(self, memory_id: str, text: str) -> tuple[str, int] | None:
        """When the memory last changed to this text, and the row that says so.

        None if the history does not contain the memory, or its last text there is another.
        """
        found = self._index.execute(
            "SELECT at, row, digest FROM change WHERE memory_id = ? ORDER BY row DESC LIMIT 1", (to_bytes(memory_id),)
        ).fetchone()
        if found is None or found[0] is None or found[2] != _digest(text):
            return None
        return found[0], found[1]

    def rows(self) -> Iterator[dict[str, Json]]:
        """Every event, unchanged, oldest first, with its `row`."""
        last = 0
        while True:
            page = list(self._rows("rowid > ? ORDER BY rowid LIMIT ?", (last, _PAGE)))
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1]["row"]

    def changed(self) -> frozenset[str] | None:
        """Ids of memories with new events, which `text_at` knows from now on.

        None if this is not certain: the file is another one, or something other than new rows was written to it.
        """
        now = identity(self.path)
        if self._db.is_copy or is_wal(self.path) or not is_later_state(now, self._identity):
            return None
        with self._db.snapshot():
            if self._db.one("PRAGMA schema_version") != self._schema:
                return None
            last = next(self._rows("rowid = ?", (self._last,)), None)
            if last != self._last_row:
                return None
            events = list(islice(self._rows("rowid > ? ORDER BY rowid", (self._last,)), _MOST_NEW + 1))
        if len(events) > _MOST_NEW:
            return None
        self._identity = now
        self._note(self._index, events)
        return frozenset(str(event["memory_id"]) for event in events if event["memory_id"] is not None)

    def close(self) -> None:
        """Close the file and the index."""
        self._db.close()
        if hasattr(self, "_index"):
            self._index.close()

    def _known_columns(self) -> tuple[str, ...]:
        for self._table, self._names in _TABLES.items():
            present = {row[1] for row in self._db.all(f"PRAGMA table_info({self._table})")}
            known = tuple(name for name in _COLUMNS if self._names.get(name, name) in present)
            if {"memory_id", "new_memory", "event"} <= set(known):
                return known
        raise InputError(f"{self.path} is not a history of Mem0", hint="check `history_db_path`")

    def _rows(self, where: str, values: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
        columns = ", ".join(self._names.get(name, name) for name in self._columns)
        sql = f"SELECT rowid, {columns} FROM {self._table} WHERE {where}"
        for row in self._db.all(sql, values):
            named = dict.fromkeys(_COLUMNS) | dict(zip(self._columns, row[1:], strict=True))
            yield {"row": row[0], **named}

    def _build_index(self) -> sqlite3.Connection:
        """Build an index of all changes of text by memory, in the order of their rows.

        Not by time, because Mem0 before 1.0 leaves the time empty for a deletion.
        """
        index = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        index.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000;"
            "CREATE TABLE change (row INTEGER PRIMARY KEY, memory_id BLOB, at TEXT, digest BLOB); BEGIN"
        )
        events = self.rows()
        while page := list(islice(events, _PAGE)):
            self._note(index, page)
        index.execute("COMMIT")
        index.execute("CREATE INDEX by_memory ON change (memory_id, row)")
        return index

    def _note(self, index: sqlite3.Connection, events: Sequence[dict[str, Any]]) -> None:
        changes = [change for event in events if (change := _change_of_text(event)) is not None]
        index.executemany("INSERT INTO change (memory_id, row, at, digest) VALUES (?, ?, ?, ?)", changes)
        if events:
            self._last, self._last_row = events[-1]["row"], events[-1]


def open_history(path: Path) -> HistoryFile | None:
    """The history at `path`; None if there is no such file."""
    return HistoryFile(path) if path.is_file() else None


def history_path(config: Mapping[str, Any]) -> Path | None:
    """Where Mem0 keeps its history with this configuration; None if not in a file, or not at all."""
    named = config.get("history_db_path")
    if named is not None:
        return _named(named)
    if config.get(TYPESCRIPT) or (config.get("vector_store") or {}).get("provider") == MEMORY:
        return _typescript_history(config)
    home = os.environ.get("MEM0_DIR") or os.path.join(os.path.expanduser("~"), ".mem0")
    return Path(home) / "history.db"


def _typescript_history(config: Mapping[str, Any]) -> Path | None:
    """TypeScript's `memory.db` in the working directory, unless the configuration says otherwise."""
    section = config.get("history_store")
    store: Mapping[str, Any] = section if isinstance(section, Mapping) else {}
    if config.get("disable_history") or store.get("provider", "sqlite") != "sqlite":
        return None
    settings = store.get("config") or {}
    named = settings.get("historyDbPath", settings.get("history_db_path"))
    return Path("memory.db") if named is None else _named(named)


def _named(value: Any) -> Path:
    """A path in a configuration; raises InputError for a value that is not one."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"history_db_path in the Mem0 configuration is not a path: {value!r}")
    return Path(from_environment(value, "history_db_path", "the Mem0 configuration"))


def _change_of_text(event: Mapping[str, Any]) -> tuple[bytes, int, str | None, bytes | None] | None:
    """An event as (memory, row, time, digest of the new text); None if the text did not change."""
    memory_id = event["memory_id"]
    if memory_id is None:
        return None
    if event["event"] == "DELETE" or event["is_deleted"]:
        return to_bytes(str(memory_id)), event["row"], None, None
    new = event["new_memory"]
    if not isinstance(new, str) or new == event["old_memory"]:
        return None
    at, _ = utc_time(event["updated_at"] if event["event"] == "UPDATE" else event["created_at"])
    return to_bytes(str(memory_id)), event["row"], at, _digest(new)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(to_bytes(text), digest_size=16).digest()
