"""A connection to Postgres that is used like one to SQLite. The only module that imports psycopg.

Inside a transaction, statements are sent without waiting for their answers, until a row or a count is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumper

from spectron_migrate.clocks import seconds_with_sleep
from spectron_migrate.database.dialect import escape, for_many_rows, numbered, parts_of, unescape
from spectron_migrate.database.interface import Conflict
from spectron_migrate.database.location import WHERE_SECRETS_GO, PostgresLocation
from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.records import counted

logging.getLogger("psycopg").setLevel(logging.ERROR)  # we report a lost connection once
OLDEST_SERVER = 14
_REFUSED = ("password authentication failed", 'role "', "no pg_hba.conf entry")
"""What a server says about a user. While connecting, psycopg has no error class for it."""
_PREPARED = 500
"""How many statements stay prepared on a connection."""
_COUNT = (
    "INSERT INTO commit_count(holder, commits) VALUES (?, 1)"
    " ON CONFLICT (holder) DO UPDATE SET commits = commit_count.commits + 1, at = now() RETURNING commits"
)


class PostgresRow(tuple[Any, ...]):
    """A row whose columns can be found by name too, as in `sqlite3.Row`."""

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()
    _places: ClassVar[dict[str, int]] = {}

    def __getitem__(self, key: Any) -> Any:
        """A column by its name or its place."""
        return tuple.__getitem__(self, self._places[key] if type(key) is str else key)

    def keys(self) -> list[str]:
        """The names of the columns."""
        return list(self._names)


@lru_cache(1024)
def _row_class(names: tuple[str, ...]) -> type[PostgresRow]:
    places = {name: place for place, name in reversed(list(enumerate(names)))}  # the first of equal names counts
    return type("PostgresRow", (PostgresRow,), {"__slots__": (), "_names": names, "_places": places})


def _row_factory(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], PostgresRow]:
    columns = cursor.description
    return _row_class(tuple(column.name for column in columns) if columns else ())


class _TextDumper(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escape(obj))


class _BoolDumper(Int8Dumper):
    def dump(self, obj: bool) -> Buffer | None:
        return b"1" if obj else b"0"


class _TextLoader(Loader):
    def load(self, data: Buffer) -> str:
        return unescape(bytes(data).decode())


class _SumLoader(Loader):
    """Loads a sum of integers, which Postgres returns as a decimal number."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data))


class PostgresResult:
    """The result of a statement. It waits for the answer when it is read."""

    __slots__ = ("_cursor", "_database")

    def __init__(self, database: PostgresDatabase, cursor: psycopg.Cursor[Any]) -> None:
        self._database = database
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        if self._cursor.rowcount < 0:
            self._database.wait()
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        """The next row; None after the last."""
        with self._database.errors():
            return self._cursor.fetchone()

    def fetchmany(self, size: int, /) -> list[Any]:
        """The next rows; none after the last."""
        with self._database.errors():
            return self._cursor.fetchmany(size)

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        with self._database.errors():
            return self._cursor.fetchall()

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left."""
        return iter(self.fetchall())


class PostgresDatabase:
    """One connection, in autocommit outside `transaction`. Use `opening.connect`."""

    def __init__(self, location: PostgresLocation, connection: psycopg.Connection[Any]) -> None:
        self.location = location
        self._connection = connection
        self._pipeline: psycopg.Pipeline | None = None
        self._holder: str | None = None
        self._cursors = 0
        self.made_schema = False
        """Whether this connection created the schema."""
        self.commits = 0
        """How many transactions of this holder are known to be durable (`count_commits`)."""
        self.answered_at = seconds_with_sleep()
        """A moment, by `seconds_with_sleep`, at which Postgres still served this connection: it answered what was sent
        then."""

    def count_commits(self, holder: str | None) -> None:
        """Count the transactions of this connection in the database, under a name that nobody else has; None for no
        more.
        """
        self._holder = holder

    @property
    def holder(self) -> str | None:
        """The name under which this connection's transactions are counted."""
        return self._holder

    @property
    def driver_pid(self) -> int:
        """The server's process, as it named itself when the connection was made."""
        return self._connection.info.backend_pid

    @property
    def is_lost(self) -> bool:
        """Whether the connection is broken or closed."""
        return self._connection.closed

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> PostgresResult:
        """Run one statement."""
        return self._send(numbered(sql), parameters)

    def _send(self, numbered_sql: str, parameters: Sequence[Any]) -> PostgresResult:
        began = seconds_with_sleep()
        with self.errors():
            cursor = self._connection.cursor()
            cursor.execute(numbered_sql, parameters or None)
            if self._pipeline is None:
                self.answered_at = began
            return PostgresResult(self, cursor)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> PostgresResult:
        """Run one statement for each of the rows."""
        if self._pipeline is not None:  # psycopg's own method waits for the server before and after
            return self._execute_many(sql, list(rows)) or PostgresResult(self, self._connection.cursor())
        with self.errors():
            cursor = self._connection.cursor()
            cursor.executemany(numbered(sql), rows)
            return PostgresResult(self, cursor)

    def _execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> PostgresResult | None:
        result = None
        for part in parts_of(rows):
            together = for_many_rows(sql, len(part))
            if together is not None:
                result = self._send(together, [each for row in part for each in row])
            else:
                for row in part:
                    result = self.execute(sql, row)
        return result

    def pages(self, sql: str, parameters: Sequence[Any] = (), /, *, size: int) -> Iterator[list[Any]]:
        """The rows of a statement, of which no more than `size` are held at a time; the server keeps the others.

        Other statements may run in between, and what they change is not seen.
        """
        self._cursors += 1
        name = f"rows_{self._cursors}"
        self.execute(f"DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {sql}", parameters)
        try:
            while rows := self.execute(f"FETCH FORWARD {size} FROM {name}").fetchall():
                yield rows
        finally:
            with suppress(MigrateError, psycopg.Error):  # it ends with a failed transaction, or with the connection
                self.execute(f"CLOSE {name}")

    def wait(self) -> None:
        """Wait for the answers to all that was sent."""
        if self._pipeline is not None:
            began = seconds_with_sleep()
            with self.errors():
                self._pipeline.sync()
            self.answered_at = began

    @contextmanager
    def transaction(self, *, durable: bool = True, snapshot: bool = False) -> Iterator[PostgresDatabase]:
        """A transaction, rolled back on any error.

        When it returns, it is as durable as the server's disk. `snapshot`: it reads the database as it was at the
        beginning, and writes nothing.
        """
        del durable  # if the server could forget a commit, the count of commits could go back
        with self.errors():
            try:
                with self._connection.pipeline() as pipeline:
                    self._pipeline = pipeline
                    self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if snapshot else "BEGIN")
                    yield self
                    count = self.execute(_COUNT, (self._holder,)) if self._holder is not None and not snapshot else None
                    self.execute("COMMIT")
                    self.wait()
                    if count is not None:
                        self.commits = int(count.fetchone()[0])
                    self._pipeline = None
            except BaseException:
                self._pipeline = None
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if not self._connection.closed and self.in_transaction:
            self._connection.rollback()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert errors of a server that does not answer, or refuses, to errors that an operator understands."""
        try:
            yield
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
            raise Conflict(str(error)) from error
        except psycopg.Error as error:
            if _ends_connection(error):
                self._connection.close()  # the server has ended it; libpq notices that with the next statement
            converted = convert(error, self.location)
            if converted is None:
                raise
            raise converted from error

    def close(self) -> None:
        """Close the connection, which frees the locks that it holds."""
        self._connection.close()


def convert(error: psycopg.Error, location: PostgresLocation) -> MigrateError | None:
    """The error for an operator; None for an error that is a bug in a statement."""
    message = " ".join(str(error).split())
    errors = psycopg.errors
    refused = any(f"FATAL: {each}" in message for each in _REFUSED)
    if refused or isinstance(error, errors.InvalidAuthorizationSpecification):
        return KeyRefused(f"{location} refuses the user or its password: {message}", hint=WHERE_SECRETS_GO)
    if "no password supplied" in message:
        return KeyRefused(f"{location} asks for a password: {message}", hint=WHERE_SECRETS_GO)
    if isinstance(error, errors.InvalidCatalogName) or ('FATAL: database "' in message and "does not exist" in message):
        return InputError(f"{location}: {message}", hint="create the database, or name another in `state`")
    if isinstance(error, errors.InsufficientPrivilege | errors.InvalidSchemaName):  # an unseen schema is left out
        return KeyRefused(
            f"the user of {location} lacks a right: {message}",
            hint=f"as the database's owner: CREATE SCHEMA {location.schema} AUTHORIZATION <user>",
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return InputError(f"{location} is read-only: {message}", hint="name the primary server, not a replica of it")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or _ends_connection(error):
        return Unreachable(f"{location} does not answer: {message}", hint="run again when it does")
    if isinstance(error, psycopg.ProgrammingError) and "URI" in message:
        return InputError(f"`state` is no URL that libpq reads: {message}")
    return None


def _ends_connection(error: psycopg.Error) -> bool:
    """Whether the server ends the connection with this error. psycopg counts time-outs of transactions as internal."""
    return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}


def _bounds(url: str, timeout_s: float) -> dict[str, Any]:
    """How long the network may be silent while something waits for it. The URL may say otherwise."""
    ours = {
        "connect_timeout": max(2, round(timeout_s)),
        "tcp_user_timeout": round(timeout_s * 1000),
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    theirs = conninfo_to_dict(url)
    return {name: value for name, value in ours.items() if name not in theirs}


def open_connection(location: PostgresLocation, *, application: str, timeout_s: float) -> PostgresDatabase:
    """Connect and use the schema; raises InputError, KeyRefused or Unreachable."""
    try:
        connection = psycopg.connect(
            location.url,
            autocommit=True,
            **_bounds(location.url, timeout_s),
            fallback_application_name=application,
            cursor_factory=psycopg.RawCursor,
            row_factory=_row_factory,
        )
    except psycopg.Error as error:
        converted = convert(error, location)
        if converted is None:
            raise
        raise converted from error
    connection.prepared_max = _PREPARED
    connection.adapters.register_dumper(str, _TextDumper)
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_dumper(bool, _BoolDumper)
    connection.adapters.register_loader("text", _TextLoader)
    connection.adapters.register_loader("numeric", _SumLoader)
    database = PostgresDatabase(location, connection)
    try:
        version = connection.info.server_version
        if version < OLDEST_SERVER * 10_000:
            raise InputError(
                f"{location} is Postgres {version // 10_000}, the state needs {OLDEST_SERVER} or newer",
                hint="name a newer server in `state`",
            )
        database.execute(
            "SELECT set_config('search_path', ?, false), set_config('synchronous_commit', 'on', false),"
            " set_config('client_encoding', 'UTF8', false)",
            (f'"{location.schema}"',),
        )
    except BaseException:
        database.close()
        raise
    return database


def went_back(database: PostgresDatabase, found: int, known: int) -> InputError:
    """The error of a database that has forgotten commits."""
    return InputError(
        f"{database.location} has forgotten {counted(known - found, 'commit')} of this process: it was restored, or a"
        " replica took over that lagged",
        hint="what was sent since is on the server: replay --adopt finds it",
    )
