"""The ledger as tables in a schema of Postgres, which several hosts can reach."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spectron_migrate.database import session_locks, tables
from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.opening import connect, connect_writer, reconnect
from spectron_migrate.errors import InputError, LedgerLocked, MigrateError
from spectron_migrate.ledger import sqlite
from spectron_migrate.ledger.copying import NAMES, copy_rows
from spectron_migrate.ledger.schema import DDL, FORMAT, TABLES
from spectron_migrate.state import seal_postgres

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

PART = "ledger"
WRITER = "ledger writer"
"""The lock of the ledger's writers: held by one process alone, or shared by processes that deliver together."""


def _name() -> str:
    """The name by which others see this process."""
    return f"spectron-migrate {socket.gethostname()} {os.getpid()}"


def open_for_work(location: PostgresLocation, lost: Database | None) -> PostgresDatabase:
    """The connection of one of several writers, which holds no lock yet.

    Raises InputError if the database has forgotten commits of the lost connection.
    """
    if lost is not None:
        database = reconnect(cast("PostgresDatabase", lost), application=_name())
    else:
        database = connect_writer(location, application=_name())
    try:
        make_tables(database)
        seal_postgres.enter(database)
    except BaseException:
        database.close()
        raise
    return database


def open_for_writing(location: PostgresLocation, *, create: bool) -> PostgresDatabase:
    """The connection of the only writer, which holds the lock. Raises LedgerLocked, naming the other process."""
    database = connect_writer(location, application=_name())
    try:
        if not session_locks.try_lock(database, WRITER):
            raise LedgerLocked(
                f"the ledger in {location} is being written by {holder_of(database, WRITER)}",
                hint="wait for it, or stop it; it is safe to stop at any moment",
            )
        if create:
            make_tables(database)
        else:
            _check(database)
        seal_postgres.enter(database)
    except BaseException:
        database.close()
        raise
    return database


def make_tables(database: PostgresDatabase) -> None:
    """Create the tables if they are not there; raises InputError for another format."""
    tables.make_tables(database, PART, TABLES, FORMAT)


def exists(location: PostgresLocation) -> bool:
    """Whether there is a ledger, of whatever format."""
    with closing(connect(location)) as database:
        return tables.format_of(database, PART) is not None


def open_for_reading(location: PostgresLocation, *, timeout_s: float = 10.0) -> PostgresDatabase:
    """A connection to an existing ledger; raises InputError if there is none."""
    database = connect(location, timeout_s=timeout_s)
    try:
        _check(database)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def scratch_copy(location: PostgresLocation) -> Iterator[sqlite.PrivateDatabase]:
    """A copy in a private file, so that nobody has to wait, in a transaction that is never committed."""
    private = sqlite.private_database(Path(tempfile.gettempdir()), None)
    try:
        private.connection.executescript(f"{DDL}PRAGMA user_version = {FORMAT};")
        with closing(connect(location)) as database:
            if tables.format_of(database, PART) is not None:
                _check(database)
                with database.transaction(snapshot=True):
                    copy_rows(database, private.connection)
        private.connection.execute("BEGIN IMMEDIATE")
        yield private
    finally:
        private.close()


def discard(database: PostgresDatabase) -> None:
    """Remove the tables of a ledger that no run claimed, and the schema that was made for it."""
    with database.transaction() as db:
        db.execute("DROP VIEW receipt_id")
        for name in reversed(NAMES):
            db.execute(f"DROP TABLE {name}")
        db.execute("DELETE FROM format WHERE part = ?", (PART,))
    tables.drop_schema(database)


def _check(database: PostgresDatabase) -> None:
    found = tables.format_of(database, PART)
    if found is None:
        raise InputError(f"there is no ledger in {database.location}", hint=sqlite.WHERE_IS_IT)
    tables.check_format(database, PART, found, FORMAT)


def holder_of(database: PostgresDatabase, lock: str) -> str:
    """Who holds a lock, for a message."""
    try:
        found = holders_of(database, lock)
    except MigrateError:
        found = []
    return f"process {found[0][1]} on {found[0][0]}" if found else "another process"


def holders_of(database: Database, lock: str) -> list[tuple[str, int]]:
    """Host and process id of all that hold a lock, as they named themselves."""
    key = session_locks.lock_key(cast("PostgresDatabase", database).location.schema, lock)
    rows = database.execute(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
        " AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND classid = ? AND objid = ? AND granted",
        ((key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF),
    ).fetchall()
    names = [str(row[0]).split(" ") for row in rows]
    return [(name[1], int(name[2])) for name in names if len(name) == 3 and name[2].isdigit()]
