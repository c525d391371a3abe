"""The seal of a state in Postgres, and the lock that all who use the state share.

Every connection that may write holds the lock shared, as long as it lives; `state copy` holds it alone.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.opening import connect
from spectron_migrate.database.session_locks import try_lock
from spectron_migrate.state.seal import LOCK, StateBusy, refuse_left

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase


def enter(database: PostgresDatabase) -> None:
    """Register as a user of the state, until the connection ends.

    Raises StateBusy while the state is copied, StateMoved for one that was moved away or was not copied completely.
    """
    if not try_lock(database, LOCK, shared=True):
        raise StateBusy(f"the state in {database.location} is being copied", hint="wait until the copy is finished")
    refuse_left(lambda name: read_document(database, name))


def read_document(database: PostgresDatabase, name: str) -> bytes | None:
    """A document of the schema; None also where there are no documents yet."""
    if database.execute("SELECT to_regclass('document')::text").fetchone()[0] is None:
        return None
    row = database.execute("SELECT data FROM document WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row["data"])


def read(location: PostgresLocation, name: str) -> bytes | None:
    """A document of a schema, read on a connection of its own."""
    with closing(connect(location)) as database:
        return read_document(database, name)


def remove(location: PostgresLocation, name: str) -> None:
    """Remove a document of a schema, on a connection of its own."""
    with closing(connect(location)) as database:
        database.execute("DELETE FROM document WHERE name = ?", (name,))
