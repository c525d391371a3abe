"""Connects to the Postgres of a state, and checks what is found there."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

_FREE_SOON = (
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)
"""The server notices within 20 s that a host is gone, and frees the locks of its connections."""
EXTRA = "pip install 'spectron-migrate[postgres]'"


def connect(
    location: PostgresLocation, *, application: str = "spectron-migrate", timeout_s: float = 10.0
) -> PostgresDatabase:
    """A connection that reads and writes the schema, which may not be there yet.

    Raises InputError, KeyRefused or Unreachable. `application` is how it is named in `pg_stat_activity`.
    """
    try:
        from spectron_migrate.database.postgres import open_connection
    except ImportError as error:
        raise InputError("a state in Postgres needs psycopg, 3.2 or newer", hint=EXTRA) from error
    return open_connection(location, application=application, timeout_s=timeout_s)


def connect_writer(
    location: PostgresLocation, *, application: str = "spectron-migrate", timeout_s: float = 10.0
) -> PostgresDatabase:
    """A connection that may hold locks and whose commits are counted. Call `tables.make_schema` before the first.

    Raises InputError also for a replica, and for a pooler in transaction mode.
    """
    from spectron_migrate.database.session_locks import check_session

    def again() -> PostgresDatabase:
        return connect(location, application=application, timeout_s=timeout_s)

    database = again()
    try:
        database.execute(_FREE_SOON)
        _refuse_replica(database)
        check_session(database, again)
        database.count_commits(secrets.token_hex(8))
    except BaseException:
        database.close()
        raise
    return database


def _refuse_replica(database: PostgresDatabase) -> None:
    """Raise InputError for a replica.

    It may lag, so that even readers would not learn in time that a cutover is complete.
    """
    if database.execute("SHOW transaction_read_only").fetchone()[0] == "on":
        raise InputError(f"{database.location} is read-only", hint="name the primary server, not a replica of it")


def reconnect(
    lost: PostgresDatabase, *, application: str = "spectron-migrate", timeout_s: float = 10.0
) -> PostgresDatabase:
    """A new writer in place of a lost one. Raises InputError if the database has forgotten what was committed."""
    from spectron_migrate.database.postgres import went_back
    from spectron_migrate.database.tables import commits_of

    database = connect_writer(lost.location, application=application, timeout_s=timeout_s)
    try:
        found = commits_of(database, lost.holder)
        if found < lost.commits:
            raise went_back(lost, found, lost.commits)
    except BaseException:
        database.close()
        raise
    database.commits = found
    if lost.holder is not None:
        database.count_commits(lost.holder)
    return database
