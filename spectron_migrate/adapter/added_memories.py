"""Keeps what Mem0's callers expect of memories that were added after `complete`, and Spectron does not keep.

Spectron keeps text, scope and labels. The id that the caller was given, the metadata, the author and the times are kept
here: in `since.db` of the state directory for all processes of the host, or in a database for all hosts. Without a
state nothing is kept. The memory is still in Spectron, and a search finds it by its text.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from spectron_migrate.ledger.schema import marks
from spectron_migrate.records import Memory, Selector, canonical_json, selector_of
from spectron_migrate.state.added_tables import DDL, NAME
from spectron_migrate.state.store import StateStore, Tables, store_at
from spectron_migrate.state.unreachable import StateUnreachable

if TYPE_CHECKING:
    from spectron_migrate.state.postgres_calls import BoundedThread

BUSY_S = 30.0
"""How long a write waits for other processes of the host."""
_T = TypeVar("_T")
READ_S, KEEP_S = 2.0, 5.0
"""How long a call waits for a database that does not answer, when it reads added memories and when it keeps one."""
_log = logging.getLogger("spectron_migrate.adapter")

_ALL: weakref.WeakSet[AddedMemories] = weakref.WeakSet()
_PARENTS: list[Tables | None] = []


class AddedMemories:
    """Safe to use from several threads."""

    def __init__(self, state: Path | StateStore) -> None:
        """`state`: nothing is kept while its directory does not exist."""
        self._state = store_at(state)
        self._lock = threading.Lock()
        self._tables: Tables | None = None
        self._thread: BoundedThread | None = None
        """The thread that asks a database."""
        self._is_unread = False
        """Whether the last query for a search was not answered."""
        _ALL.add(self)

    def forget_after_fork(self) -> None:
        """In a child process: the tables are the parent's, so they are neither used nor closed here.

        The parent may hold the lock.
        """
        _PARENTS.append(self._tables)
        self._lock, self._tables, self._thread = threading.Lock(), None, None

    def add(self, memory: Memory, rows: Iterable[str | None], selector: Selector) -> None:
        """Keep a memory that Spectron has stored under this selector, and the ids of what Spectron made of it.

        A failure is logged, not raised, because otherwise the application would write the memory again.
        """
        try:
            self._bounded(lambda: self._keep(memory, rows, selector), KEEP_S)
        except Exception as error:  # the database may also have been restored, be a replica, or lack a table
            where = self._state.describe(f"{NAME}.db")
            _log.warning("a memory is in Spectron, and its id is not kept in %s: %s", where, error)

    def _keep(self, memory: Memory, rows: Iterable[str | None], selector: Selector) -> None:
        tables = self._open(create=True)
        if tables is None:
            return
        owners = (memory.user_id, memory.agent_id, memory.run_id, memory.app_id)
        columns = ("user_id", "agent_id", "run_id", "app_id", "record")
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
        changes = (
            (
                f"INSERT INTO {tables.prefix}memory(id, {', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?)"
                f" ON CONFLICT (id) DO UPDATE SET {changed}",
                [(memory.id, *owners, canonical_json(memory.to_json()))],
            ),
            (
                f"INSERT INTO {tables.prefix}placed(memory, selector) VALUES (?, ?)"
                " ON CONFLICT (memory) DO UPDATE SET selector = excluded.selector",
                [(memory.id, canonical_json(selector))],
            ),
            (
                f"INSERT INTO {tables.prefix}made(row, memory) VALUES (?, ?) ON CONFLICT (row, memory) DO NOTHING",
                [(row, memory.id) for row in rows if row is not None],
            ),
        )
        try:
            tables.change(*changes)
        except StateUnreachable:  # an idle connection may have been cut; keeping a memory twice does no harm
            tables.change(*changes)

    def made_of(self, rows: Sequence[str]) -> dict[str, Memory]:
        """For each of Spectron's ids, the memory that it was made from, if that is exactly one.

        If they cannot be read, that is logged and the result is empty; a search then shows such hits under Spectron's
        ids.
        """
        try:
            found = self._rows(
                "SELECT made.row, min(memory.record) FROM {0}made AS made JOIN {0}memory AS memory"
                f" ON memory.id = made.memory WHERE made.row IN ({marks(rows)}) GROUP BY made.row HAVING count(*) = 1",
                tuple(rows),
            )
        except Exception as error:
            if not self._is_unread:
                _log.warning("searches do not know what was added since the cutover: %s", error)
            self._is_unread = True
            return {}
        self._is_unread = False
        return {row: Memory.from_json(json.loads(record)) for row, record in found}

    def memory(self, memory_id: str) -> Memory | None:
        """One memory by the id that `add` returned."""
        found = self._rows("SELECT id, record FROM {}memory WHERE id = ?", (memory_id,))
        return Memory.from_json(json.loads(found[0][1])) if found else None

    def all_of(self, ids: Mapping[str, str]) -> list[Memory]:
        """The memories that have all of these ids."""
        where = " AND ".join(f"{name} = ?" for name in ids)
        found = self._rows(f"SELECT id, record FROM {{}}memory WHERE {where or 'FALSE'}", tuple(ids.values()))
        return [Memory.from_json(json.loads(record)) for _, record in found]

    def selectors_of(self, ids: Mapping[str, str]) -> list[Selector]:
        """The selectors under which memories that have all of these ids were stored, each once."""
        where = " AND ".join(f"{name} = ?" for name in ids)
        statement = (
            "SELECT DISTINCT selector FROM {0}memory AS memory JOIN {0}placed AS placed ON placed.memory = memory.id"
            f" WHERE {where}"
        )
        return [selector_of(row[0]) for row in self._rows(statement, tuple(ids.values()))]

    def close(self) -> None:
        """Close the tables."""
        with self._lock:
            if self._tables is not None:
                self._tables.close()
            self._tables = None
            if self._thread is not None:
                self._thread.close()
            self._thread = None

    def _rows(self, query: str, values: Sequence[str]) -> list[tuple[str, ...]]:
        """The rows of a query in which `{}` stands for the prefix of the tables' names."""

        def read() -> list[tuple[str, ...]]:
            tables = self._open(create=False)
            return tables.read(query.format(tables.prefix), values) if tables is not None else []

        return self._bounded(read, READ_S)

    def _bounded(self, ask: Callable[[], _T], budget_s: float) -> _T:
        """The result of `ask`. With a database, raises StateUnreachable if it takes too long."""
        if self._state.folder is not None:
            return ask()
        # Not imported above, because a state in a directory does not need it.
        from spectron_migrate.state.postgres_calls import BoundedThread

        with self._lock:
            if self._thread is None:
                self._thread = BoundedThread()
            thread = self._thread
        return thread.run(ask, budget_s)

    def _open(self, *, create: bool) -> Tables | None:
        with self._lock:
            if self._tables is None and self._is_there(create=create):
                self._tables = self._state.tables(NAME, DDL, busy_s=BUSY_S)
            return self._tables

    def _is_there(self, *, create: bool) -> bool:
        folder = self._state.folder
        return folder is None or (folder / f"{NAME}.db").exists() or (create and folder.is_dir())


def _after_fork() -> None:
    for each in list(_ALL):
        each.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)
