"""The two kinds of places that `state copy` copies between: a directory, and a schema of a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import sync_folder
from spectron_migrate.files.locks import holder_of, is_held, try_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import copying, gathering
from spectron_migrate.ledger.adopting import note_backup
from spectron_migrate.records import name_first
from spectron_migrate.state import contents, seal
from spectron_migrate.state.contents import StateContents
from spectron_migrate.state.processes import read_processes
from spectron_migrate.state.seal import LEFT, LOCK, StateBusy
from spectron_migrate.state.store import StateStore, store_at

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

PATIENCE_S = 5.0
"""How long to wait for processes that only read the state."""
_NOT_USERS = (LOCK, "fold.lock", "log.lock")
_STOP = "stop it first, and start it again on the copy; it is safe to stop at any moment"


class StatePlace(Protocol):
    """A place that a state is copied from or to."""

    name: str
    shards: int

    def alone(self) -> AbstractContextManager[None]:
        """Keep everybody else from using the state. Raises StateBusy if somebody does."""

    def read(self, name: str) -> bytes | None:
        """Read a document."""

    def write(self, name: str, data: bytes) -> None:
        """Write a document, durably."""

    def remove(self, name: str) -> None:
        """Remove a document, durably."""

    def is_empty(self) -> bool:
        """Whether the place holds nothing of a state."""

    def clear(self) -> None:
        """Remove all but the mark."""

    def reading(self, now: datetime) -> AbstractContextManager[tuple[StateContents, Database | None]]:
        """Everything that the place holds, as of one moment."""

    def fill(self, state: StateContents, ledger: Database | None) -> None:
        """Write everything, durably."""

    def note_backup(self, now: str) -> None:
        """Record that this is a backup, so that the next replay asks for an adoption."""

    def leave(self) -> None:
        """Remove what an application in another language would go on reading here, because it does not know seals."""


class DirectoryPlace:
    """A state directory."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.shards = 0
        self._folder = folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        lock = try_lock(self._folder / LOCK)
        if lock is None:
            raise StateBusy(f"the state in {self.name} is being copied by {holder_of(self._folder / LOCK)}", hint=_STOP)
        with lock:
            for path in sorted(self._folder.rglob("*.lock")):
                if path.name not in _NOT_USERS and is_held(path):
                    what = path.relative_to(self._folder)
                    who = holder_of(path).partition(":")[0]
                    raise StateBusy(f"{who} uses the state in {self.name} ({what})", hint=_STOP)
            _refuse_processes(self._folder, self.name)
            yield

    def read(self, name: str) -> bytes | None:
        return seal.read_file(self._folder, name)

    def write(self, name: str, data: bytes) -> None:
        store_at(self._folder).write(name, data, durable=True)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        sync_folder(self._folder)

    def is_empty(self) -> bool:
        return contents.is_empty_directory(self._folder)

    def clear(self) -> None:
        contents.clear_directory(self._folder)

    @contextmanager
    def reading(self, now: datetime) -> Iterator[tuple[StateContents, Database | None]]:
        state = contents.read_directory(self._folder, now=now)
        with gathering.one_ledger(self._folder) as (ledger, self.shards):
            yield state, ledger

    def fill(self, state: StateContents, ledger: Database | None) -> None:
        contents.write_directory(self._folder, state)
        if ledger is not None:
            copying.write_file(self._folder, ledger)

    def note_backup(self, now: str) -> None:
        with copying.changing_file(self._folder) as ledger:
            note_backup(ledger, now)

    def leave(self) -> None:
        self.remove(LEFT)


class SchemaPlace:
    """A schema of a database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.name = str(database.location)
        self.shards = 0
        self._database = database

    @contextmanager
    def alone(self) -> Iterator[None]:
        from spectron_migrate.database.session_locks import try_lock as try_session_lock
        from spectron_migrate.database.session_locks import unlock
        from spectron_migrate.state.postgres import PostgresState

        deadline = time.monotonic() + PATIENCE_S
        while not try_session_lock(self._database, LOCK):
            if time.monotonic() > deadline:
                raise StateBusy(f"another process uses the state in {self.name}", hint=_STOP)
            time.sleep(0.05)
        try:
            with closing(PostgresState(self._database.location, checked=False)) as store:
                _refuse_processes(store, self.name)
            yield
        finally:
            unlock(self._database, LOCK)

    def read(self, name: str) -> bytes | None:
        from spectron_migrate.state.seal_postgres import read_document

        return read_document(self._database, name)

    def write(self, name: str, data: bytes) -> None:
        statement = (
            "INSERT INTO document(name, data, epoch, version) VALUES (?, ?, 0, 1)"
            " ON CONFLICT (name) DO UPDATE SET data = excluded.data, version = document.version + 1, at = now()"
        )
        with self._database.transaction() as db:
            db.execute(statement, (name, data))

    def remove(self, name: str) -> None:
        with self._database.transaction() as db:
            db.execute("DELETE FROM document WHERE name = ?", (name,))

    def is_empty(self) -> bool:
        with self._database.transaction(snapshot=True) as db:
            return contents.read_postgres(db).is_empty and copying.is_empty(db)

    def clear(self) -> None:
        with self._database.transaction() as db:
            contents.clear_postgres(db)
            copying.clear(db)

    @contextmanager
    def reading(self, now: datetime) -> Iterator[tuple[StateContents, Database | None]]:
        del now
        with self._database.transaction(snapshot=True) as db:
            yield contents.read_postgres(db), None if copying.is_empty(db) else db

    def fill(self, state: StateContents, ledger: Database | None) -> None:
        with self._database.transaction() as db:
            contents.write_postgres(db, state)
            if ledger is not None:
                copying.copy_rows(ledger, db)
                copying.raise_numbers(db)

    def note_backup(self, now: str) -> None:
        with self._database.transaction() as db:
            note_backup(db, now)

    def leave(self) -> None:
        pass  # every reader of a state in Postgres takes the lock, and so sees the seal


@contextmanager
def open_place(place: Path | PostgresLocation, *, create: bool = False) -> Iterator[StatePlace]:
    """Open the place for the block. Raises InputError if it holds no state and none may be made."""
    if isinstance(place, Path):
        if create:
            make_private_directory(place)
        elif not place.is_dir():
            raise no_state(str(place))
        yield DirectoryPlace(place)
        return
    # To copy between directories, psycopg is not needed.
    from spectron_migrate.database.opening import connect, connect_writer
    from spectron_migrate.database.tables import format_of
    from spectron_migrate.ledger.shared import PART
    from spectron_migrate.ledger.shared import make_tables as make_ledger
    from spectron_migrate.state.postgres_connection import make_state_tables

    if not create:
        with closing(connect(place)) as database:
            if format_of(database, PART) is None:
                raise no_state(str(place))
    with closing(connect_writer(place)) as database:
        make_state_tables(database)
        make_ledger(database)
        yield SchemaPlace(database)


def _refuse_processes(state: Path | StateStore, name: str) -> None:
    found = read_processes(state)
    living = sorted([*(f"{each.host}/{each.pid}" for each in found.reports), *found.broken])
    if living:
        raise StateBusy(f"applications use the state in {name}: {name_first(living)}", hint=_STOP)


def no_state(name: str) -> InputError:
    """The error for a place without a state."""
    return InputError(f"there is no state in {name}", hint="is it the right place?")
