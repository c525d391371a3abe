"""Locks that a connection holds.

They end with the connection, however it ends, so that a dead process holds none. They need a connection to the server
itself: a pooler in transaction mode would give each statement another one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from spectron_migrate.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spectron_migrate.database.postgres import PostgresDatabase, PostgresResult


def lock_key(schema: str, name: str) -> int:
    """The number under which Postgres locks a name of a schema."""
    hashed = hashlib.sha256(f"{schema}\x00{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(hashed[:8], "big", signed=True)


def try_lock(database: PostgresDatabase, name: str, *, shared: bool = False) -> bool:
    """Take a lock if nobody holds it, until `unlock` or the end of the connection.

    If taken twice, it must be freed twice.
    """
    return bool(ask_for_lock(database, name, shared=shared).fetchone()[0])


def ask_for_lock(database: PostgresDatabase, name: str, *, shared: bool = False) -> PostgresResult:
    """Like `try_lock`; the first column of the result says whether it was taken."""
    function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
    return database.execute(f"SELECT {function}(?)", (lock_key(database.location.schema, name),))


def unlock(database: PostgresDatabase, name: str, *, shared: bool = False) -> None:
    """Free a lock that this connection holds."""
    function = "pg_advisory_unlock_shared" if shared else "pg_advisory_unlock"
    database.execute(f"SELECT {function}(?)", (lock_key(database.location.schema, name),)).fetchone()


def check_session(database: PostgresDatabase, connect_again: Callable[[], PostgresDatabase]) -> None:
    """Raises InputError if a pooler gives this connection another process of the server for each statement.

    A pooler reports a process number of its own. Whether it pools by transaction shows while a second connection is in
    one: then another process than before serves the first connection.
    """
    before = _pid(database)
    if before == database.driver_pid:
        return
    other = connect_again()
    try:
        with other.transaction():
            theirs = _pid(other)
            now = _pid(database)
    finally:
        other.close()
    if now != before or theirs in (before, now):
        raise InputError(
            f"{database.location} is a pooler in transaction mode: a lock held by a connection does not live there",
            hint="name the server itself in `state`, or a pool in session mode",
        )


def _pid(database: PostgresDatabase) -> int:
    return int(database.execute("SELECT pg_backend_pid()").fetchone()[0])
