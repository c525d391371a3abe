"""A state in a schema of Postgres, for processes on several hosts. The interface is `StateStore` in `state/store.py`.

A document is a row, a journal is a row for each line, and a lock is held by a connection of its own, so that it ends
with its process or its network. If a connection was lost, the next call makes a new one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.opening import connect
from spectron_migrate.database.session_locks import lock_key, try_lock, unlock
from spectron_migrate.database.tables import is_made
from spectron_migrate.errors import Unreachable
from spectron_migrate.state.call_log import BUDGET_S
from spectron_migrate.state.postgres_calls import PostgresCallLog
from spectron_migrate.state.postgres_connection import PART, PostgresConnection, unreachable
from spectron_migrate.state.unreachable import StateUnreachable

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

LOCK_WAIT_S = 30.0
"""How long to wait for a lock that others hold only briefly."""
_LOCK_RETRY_S = 0.02
_DEAD_HOSTS = (
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)
"""The server notices within 20 s that the host of a connection is gone, and frees its locks."""
_HOLDER = (
    "SELECT activity.application_name FROM pg_locks"
    " JOIN pg_database ON pg_database.oid = pg_locks.database AND pg_database.datname = current_database()"
    " LEFT JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid"
    " WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' AND objsubid = 1"
    " AND classid::bigint = ? AND objid::bigint = ?"
)


class PostgresLock:
    """A lock held by a connection."""

    def __init__(self, database: PostgresDatabase, name: str, give_back: Callable[[PostgresDatabase], None]) -> None:
        """Use `PostgresState.lock` or `PostgresState.try_lock`."""
        self._database: PostgresDatabase | None = database
        self._name = name
        self._give_back = give_back
        self._pid = os.getpid()

    @property
    def is_lost(self) -> bool:
        """Whether its connection has broken, so that another process may hold the lock; asks the database."""
        if self._database is None or self._pid != os.getpid():
            return True
        try:
            self._database.execute("SELECT 1").fetchone()
        except Unreachable:
            return True
        return False

    def close(self) -> None:
        """Release the lock; may be called twice."""
        database, self._database = self._database, None
        if database is not None and self._pid == os.getpid():  # otherwise the lock is the parent's
            with suppress(Unreachable):
                unlock(database, self._name)
            self._give_back(database)

    def __enter__(self) -> PostgresLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PostgresTables:
    """Tables of the schema."""

    def __init__(self, connection: PostgresConnection, prefix: str) -> None:
        """`prefix`: how their names begin."""
        self._connection = connection
        self.prefix = prefix

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        return self._connection.look(lambda db: db.execute(sql, values).fetchall(), [])

    def change(self, *statements: tuple[str, Sequence[Sequence[Any]]]) -> None:
        """Run each statement for each of its rows, in one transaction that is durable."""

        def run(db: PostgresDatabase) -> None:
            with db.transaction():
                for sql, rows in statements:
                    for row in rows:
                        db.execute(sql, row)

        self._connection.once(run)

    def close(self) -> None:
        """Does nothing, because the connection belongs to the state."""


class PostgresState:
    """One schema. Safe to use from several threads, and in a child process."""

    folder = None

    def __init__(self, location: PostgresLocation, *, timeout_s: float = 10.0, checked: bool = True) -> None:
        """Connects when first used. `checked`: see `PostgresConnection`."""
        self.connection = PostgresConnection(location, timeout_s=timeout_s, checked=checked)
        self.again, self.look = self.connection.again, self.connection.look
        self._lock = threading.Lock()
        self._idle: list[PostgresDatabase] = []
        """Connections that currently hold no lock."""
        self._pid = os.getpid()

    @property
    def place(self) -> PostgresLocation:
        """The schema."""
        return self.connection.location

    @property
    def work_folder(self) -> Path:
        """The directory that would hold the state if there were no database."""
        return Path(".spectron-migrate")

    def __str__(self) -> str:
        """The location without a password, for messages."""
        return str(self.place)

    def prepare(self) -> None:
        """Connect; the first change makes the schema and the tables."""
        self.connection.ask(lambda _: None)

    def is_there(self) -> bool:
        """Whether the schema exists, with our tables."""
        return self.connection.ask(is_made)

    def describe(self, name: str) -> str:
        """The name and the database."""
        return f"{name} in {self.place}"

    # -- documents --

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """The contents of a row."""
        data = "data" if most is None else f"substring(data FROM 1 FOR {most:d}) AS data"
        row = self.look(lambda db: db.execute(f"SELECT {data} FROM document WHERE name = ?", (name,)).fetchone(), None)
        return None if row is None else bytes(row["data"])

    def write(self, name: str, data: bytes, *, durable: bool = False, public: bool = False, epoch: int = 0) -> None:
        """Replace a row, unless it has a greater epoch.

        The write is always durable. The database decides who may read it.
        """
        del durable, public
        statement = (
            "INSERT INTO document(name, data, epoch, version) VALUES (?, ?, ?, 1) ON CONFLICT (name)"
            " DO UPDATE SET data = excluded.data, epoch = excluded.epoch, version = document.version + 1, at = now()"
            " WHERE document.epoch <= excluded.epoch"
        )
        self.again(lambda db: db.execute(statement, (name, data, epoch)))

    def version(self, name: str) -> object:
        """How often the document was written, or how many lines the journal has."""
        statement = (
            "SELECT version FROM document WHERE name = ? UNION ALL"
            " SELECT * FROM (SELECT n FROM journal WHERE name = ? ORDER BY n DESC LIMIT 1) AS last"
        )
        row: Any = self.look(lambda db: db.execute(statement, (name, name)).fetchone(), None)
        return None if row is None else int(row[0])

    def age_s(self, name: str) -> float:
        """Its age by the database's clock, whichever host wrote it."""
        statement = "SELECT extract(epoch FROM now() - at)::float8 FROM document WHERE name = ?"
        row: Any = self.look(lambda db: db.execute(statement, (name,)).fetchone(), None)
        return float("inf") if row is None else float(row[0])

    def names(self, folder: str) -> list[str]:
        """The documents of a folder: rows whose names begin with it."""
        statement = "SELECT name FROM document WHERE starts_with(name, ?) ORDER BY name"
        rows: list[Any] = self.look(lambda db: db.execute(statement, (f"{folder}/",)).fetchall(), [])
        return [name for name in (str(row[0]) for row in rows) if name.endswith(".json")]

    def remove(self, name: str) -> None:
        """Remove a row, or all rows of a journal."""

        def remove(db: PostgresDatabase) -> None:
            with db.transaction():
                db.execute("DELETE FROM document WHERE name = ?", (name,))
                db.execute("DELETE FROM journal WHERE name = ?", (name,))

        self.look(remove, None)

    # -- journals --

    def lines(self, name: str) -> list[bytes]:
        """The lines in their order."""
        statement = "SELECT line FROM journal WHERE name = ? ORDER BY n"
        rows: list[Any] = self.look(lambda db: db.execute(statement, (name,)).fetchall(), [])
        return [bytes(row["line"]) for row in rows]

    def append_line(self, name: str, line: bytes, *, after: Sequence[bytes]) -> bool:
        """Append the line, unless another line has its number.

        If a commit was not answered, ask again whether it took place. Raises StateUnreachable if that cannot be found
        out.
        """
        number = len(after) + 1

        def append(db: PostgresDatabase) -> bool:
            with db.transaction():
                statement = "INSERT INTO journal(name, n, line) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
                return db.execute(statement, (name, number, line)).rowcount == 1

        def look(db: PostgresDatabase) -> bool | None:
            row = db.execute("SELECT line FROM journal WHERE name = ? AND n = ?", (name, number)).fetchone()
            return None if row is None else bytes(row["line"]) == line

        with self.connection.lock:
            self.connection.connected()  # a failure here has changed nothing
            try:
                return self.connection.once(append)
            except StateUnreachable as error:
                try:
                    found = self.look(look, None)
                    return self.connection.once(append) if found is None else found
                except StateUnreachable:
                    raise StateUnreachable(
                        f"nobody can say whether a line was added to {self.describe(name)}: {error.message}",
                        hint="see `spectron-migrate status` when the database answers",
                    ) from error

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace all its rows in one transaction."""

        def replace(db: PostgresDatabase) -> None:
            with db.transaction():
                db.execute("DELETE FROM journal WHERE name = ?", (name,))
                for number, line in enumerate(lines, start=1):
                    db.execute("INSERT INTO journal(name, n, line) VALUES (?, ?, ?)", (name, number, line))

        self.connection.once(replace)

    def has_journal(self, name: str) -> bool:
        """Whether the journal has a line."""
        return bool(self.look(lambda db: db.execute("SELECT 1 FROM journal WHERE name = ?", (name,)).fetchall(), []))

    def has_begun(self) -> bool:
        """Whether the schema holds a ledger; it may have tables of the state without one."""
        statement = "SELECT 1 FROM format WHERE part != ?"
        return self.connection.ask(lambda db: is_made(db) and db.execute(statement, (PART,)).fetchone() is not None)

    # -- locks --

    def lock(self, name: str) -> PostgresLock:
        """Wait for the lock; raises StateUnreachable after `LOCK_WAIT_S`."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while (held := self.try_lock(name)) is None:
            if time.monotonic() > deadline:
                raise StateUnreachable(
                    f"{self.holder_of(name)} has held {self.describe(name)} for more than {LOCK_WAIT_S:.0f} s",
                    hint="run again when it has ended",
                )
            time.sleep(_LOCK_RETRY_S)
        return held

    def try_lock(self, name: str) -> PostgresLock | None:
        """Take the lock on a connection of its own if it is free."""
        self.prepare()  # `state` must not name a pooler in transaction mode
        while True:
            database = self._take_idle()
            is_new = database is None
            try:
                if database is None:
                    about = self.connection
                    database = connect(about.location, application=about.application, timeout_s=about.timeout_s)
                    database.execute(_DEAD_HOSTS)
                if try_lock(database, name):
                    return PostgresLock(database, name, self._keep_idle)
                self._keep_idle(database)
                return None
            except Unreachable as error:
                if database is not None:
                    database.close()
                if is_new:
                    raise unreachable(error) from error

    def is_locked(self, name: str) -> bool:
        """Whether a connection holds the lock."""
        return self._holder(name) is not None

    def holder_of(self, name: str) -> str:
        """The host and process of the connection that holds it."""
        holder = self._holder(name) or ""
        return f"process {holder.rpartition(' ')[2]}" if holder.startswith("spectron-migrate ") else "another process"

    def _holder(self, name: str) -> str | None:
        key = lock_key(self.connection.location.schema, name) & 0xFFFF_FFFF_FFFF_FFFF
        found = self.connection.ask(lambda db: db.execute(_HOLDER, (key >> 32, key & 0xFFFF_FFFF)).fetchone())
        return None if found is None else str(found[0] or "")

    # -- others --

    def call_log(self, *, patience_s: float = BUDGET_S) -> PostgresCallLog:
        """The log of calls of all hosts, on a connection of its own."""
        return PostgresCallLog(self.connection.location, budget_s=patience_s)

    def tables(self, name: str, ddl: str, *, busy_s: float = 5.0) -> PostgresTables:
        """The tables whose names begin with this name. They were made together with the others."""
        del ddl, busy_s
        return PostgresTables(self.connection, f"{name}_")

    def close(self) -> None:
        """Close the connections, which releases their locks."""
        with self._lock:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()
        self.connection.close()

    def _take_idle(self) -> PostgresDatabase | None:
        with self._lock:
            if self._pid != os.getpid():  # the connections are the parent's
                self._pid, self._idle = os.getpid(), []
            return self._idle.pop() if self._idle else None

    def _keep_idle(self, database: PostgresDatabase) -> None:
        with self._lock:
            if not database.is_lost and self._pid == os.getpid():
                self._idle.append(database)
