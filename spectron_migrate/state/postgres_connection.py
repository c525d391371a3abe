"""The connection of one process to a state in Postgres, made when it is needed and made again after it was lost."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.opening import connect_writer, reconnect
from spectron_migrate.database.tables import check_format, format_of, make_tables
from spectron_migrate.errors import Unreachable
from spectron_migrate.state import seal_postgres
from spectron_migrate.state.added_tables import SHARED
from spectron_migrate.state.seal import StateMoved
from spectron_migrate.state.unreachable import StateUnreachable
from spectron_migrate.state.use import use_state

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

PART, FORMAT = "state", 1
_DDL = (
    """
CREATE TABLE document(
  name TEXT PRIMARY KEY, data BLOB NOT NULL, epoch INTEGER NOT NULL, version INTEGER NOT NULL,
  at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE journal(name TEXT NOT NULL, n INTEGER NOT NULL, line BLOB NOT NULL, PRIMARY KEY (name, n));
CREATE TABLE call_line(
  position INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, line TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE outbox_meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE outbox_unknown(id INTEGER PRIMARY KEY, at TEXT NOT NULL, about TEXT NOT NULL);
"""
    + SHARED
)

_T = TypeVar("_T")


class PostgresConnection:
    """One connection. Safe to use from several threads, and in a child process."""

    def __init__(self, location: PostgresLocation, *, timeout_s: float = 10.0, checked: bool = True) -> None:
        """Connects when first used.

        The first change makes the tables; reading does not. `checked`: this process counts as a user of the state, and
        StateMoved and StateBusy are raised.
        """
        self._checked = checked
        self._is_made = False
        """Whether the tables are known to exist."""
        self.location = location
        self.timeout_s = timeout_s
        self.application = f"spectron-migrate {socket.gethostname()[:30]}/{os.getpid()}"
        self._lock = threading.RLock()
        self._database: PostgresDatabase | None = None
        self._pid = os.getpid()

    @property
    def lock(self) -> threading.RLock:
        """Held while the connection is in use."""
        if self._pid != os.getpid():  # the connection is the parent's, and the parent may hold the lock
            self._pid, self._database, self._lock = os.getpid(), None, threading.RLock()
        return self._lock

    def look(self, ask: Callable[[PostgresDatabase], _T], nothing: _T) -> _T:
        """The result of `ask`, without making tables; `nothing` if there are none. Raises StateUnreachable."""
        return self.ask(lambda db: ask(db) if self._has_tables(db) else nothing)

    def again(self, ask: Callable[[PostgresDatabase], _T]) -> _T:
        """The result of `ask`, which is called once more on a new connection if this one is lost.

        Raises StateUnreachable.
        """
        return self.ask(lambda db: ask(self._with_tables(db)))

    def ask(self, ask: Callable[[PostgresDatabase], _T]) -> _T:
        """Like `again`, for an `ask` that needs no tables."""
        with self.lock:
            had = self._database
            try:
                return self._once(ask)
            except StateUnreachable:
                if had is None or (had is self._database and not had.is_lost):
                    raise
            return self._once(ask)

    def once(self, ask: Callable[[PostgresDatabase], _T]) -> _T:
        """The result of `ask`, called only once. Raises StateUnreachable."""
        return self._once(lambda db: ask(self._with_tables(db)))

    def _once(self, ask: Callable[[PostgresDatabase], _T]) -> _T:
        with self.lock:
            try:
                if self._database is None or self._database.is_lost:
                    self._database = self._connect(self._database)
                return ask(self._database)
            except Unreachable as error:
                raise unreachable(error) from error

    def connected(self) -> PostgresDatabase:
        """The connection, with the tables. Raises StateUnreachable."""
        return self.once(lambda db: db)

    def _has_tables(self, database: PostgresDatabase) -> bool:
        if not self._is_made:
            found = format_of(database, PART)
            if found is not None:
                check_format(database, PART, found, FORMAT)
            self._is_made = found is not None
        return self._is_made

    def _with_tables(self, database: PostgresDatabase) -> PostgresDatabase:
        if not self._has_tables(database):
            make_state_tables(database)
            self._is_made = True
        return database

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def _enter(self, database: PostgresDatabase) -> None:
        try:
            seal_postgres.enter(database)
        except StateMoved:
            use_state(self.location)
            seal_postgres.enter(database)  # it was a finished copy that only had its mark left

    def _connect(self, lost: PostgresDatabase | None) -> PostgresDatabase:
        self._is_made = False  # another database may have taken its place
        if lost is not None:
            database = reconnect(lost, timeout_s=self.timeout_s)
        else:
            database = connect_writer(self.location, application=self.application, timeout_s=self.timeout_s)
        try:
            self._has_tables(database)
            if self._checked:
                self._enter(database)
        except BaseException:
            database.close()
            raise
        return database


def make_state_tables(database: PostgresDatabase) -> None:
    """Create the tables if they are not there; raises InputError for another format."""
    make_tables(database, PART, _DDL, FORMAT)


def unreachable(error: Unreachable) -> StateUnreachable:
    """The same error, as an error of the state."""
    return error if isinstance(error, StateUnreachable) else StateUnreachable(error.message, hint=error.hint)
