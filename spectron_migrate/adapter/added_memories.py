"""Memories added after `complete`, with what Mem0's callers expect of them and Spectron does not keep.

Spectron keeps text, scope and labels. The id that the caller was given, the metadata, the author and the times are
kept here, in `since.db` of the state directory, by all processes of the host. Without a state directory nothing is
kept: the memory is in Spectron all the same, and a search finds it by its text.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spectron_migrate.files.shared_sqlite import open_shared
from spectron_migrate.ledger.schema import marks
from spectron_migrate.records import Memory, Selector, canonical_json, selector_of
from spectron_migrate.state.added_tables import DDL

FILE = "since.db"
BUSY_S = 30.0
"""How long a write waits for other processes."""
_log = logging.getLogger("spectron_migrate.adapter")

_ALL: weakref.WeakSet[AddedMemories] = weakref.WeakSet()
_PARENTS: list[sqlite3.Connection | None] = []


class AddedMemories:
    """Safe to use from several threads."""

    def __init__(self, state: Path) -> None:
        """`state`: the state directory."""
        self._path = state / FILE
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        _ALL.add(self)

    def forget_after_fork(self) -> None:
        """In a child process: the connection is the parent's, neither used nor closed here, and so may be the lock."""
        _PARENTS.append(self._db)
        self._lock, self._db = threading.Lock(), None

    def add(self, memory: Memory, rows: Iterable[str | None], selector: Selector) -> None:
        """Keep a memory that Spectron has stored under this selector, and the ids of what Spectron made of it.

        A failure is logged, not raised: the application would write the memory again.
        """
        try:
            self._keep(memory, rows, selector)
        except (OSError, sqlite3.Error) as error:
            _log.warning("a memory is in Spectron, and its id is not kept in %s: %s", self._path, error)

    def _keep(self, memory: Memory, rows: Iterable[str | None], selector: Selector) -> None:
        with self._lock:
            db = self._open(create=True)
            if db is None:
                return
            ids = (memory.user_id, memory.agent_id, memory.run_id, memory.app_id)
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?, ?, ?)",
                    (memory.id, *ids, canonical_json(memory.to_json())),
                )
                db.execute("INSERT OR REPLACE INTO placed VALUES (?, ?)", (memory.id, canonical_json(selector)))
                made = [(row, memory.id) for row in rows if row is not None]
                db.executemany("INSERT OR IGNORE INTO made VALUES (?, ?)", made)

    def made_of(self, rows: Sequence[str]) -> dict[str, Memory]:
        """For Spectron's ids the memory that each was made of, if it was exactly one."""
        found = self._rows(
            "SELECT made.row, min(memory.record) FROM made JOIN memory ON memory.id = made.memory"
            f" WHERE made.row IN ({marks(rows)}) GROUP BY made.row HAVING count(*) = 1",
            tuple(rows),
        )
        return {row: Memory.from_json(json.loads(record)) for row, record in found}

    def memory(self, memory_id: str) -> Memory | None:
        """One memory by the id that `add` gave."""
        found = self._rows("SELECT id, record FROM memory WHERE id = ?", (memory_id,))
        return Memory.from_json(json.loads(found[0][1])) if found else None

    def all_of(self, ids: Mapping[str, str]) -> list[Memory]:
        """The memories that have all of these ids."""
        where = " AND ".join(f"{name} = ?" for name in ids)
        found = self._rows(f"SELECT id, record FROM memory WHERE {where or 'FALSE'}", tuple(ids.values()))
        return [Memory.from_json(json.loads(record)) for _, record in found]

    def selectors_of(self, ids: Mapping[str, str]) -> list[Selector]:
        """The selectors under which memories that have all of these ids were stored, each once."""
        where = " AND ".join(f"{name} = ?" for name in ids)
        statement = f"SELECT DISTINCT selector FROM memory JOIN placed ON placed.memory = memory.id WHERE {where}"
        return [selector_of(row[0]) for row in self._rows(statement, tuple(ids.values()))]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _rows(self, query: str, values: Sequence[str]) -> list[tuple[str, ...]]:
        with self._lock:
            db = self._open(create=False)
            return db.execute(query, values).fetchall() if db is not None else []

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        if self._db is None and (self._path.exists() or (create and self._path.parent.is_dir())):
            self._db = open_shared(self._path, DDL, busy_s=BUSY_S)
        return self._db


def _after_fork() -> None:
    for each in list(_ALL):
        each.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)
