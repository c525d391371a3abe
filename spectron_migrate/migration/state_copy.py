"""`state copy`: moves a state as a whole from one place to another, or makes a backup of it.

A move holds the source alone, fills the target, compares both, seals the source and then removes the mark of the
target. The seal decides: before it the source is the state, from it on the target is. See `state/seal.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spectron_migrate.database.digests import TableDigest
from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.files.atomic import sync_folder
from spectron_migrate.files.locks import holder_of, is_held, try_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import copying, gathering
from spectron_migrate.ledger.adopting import note_backup
from spectron_migrate.records import Json, Reporter, format_time, name_first
from spectron_migrate.state import contents, seal
from spectron_migrate.state.contents import StateContents
from spectron_migrate.state.processes import fold, read_processes
from spectron_migrate.state.seal import LEFT, LOCK, MARK, SEAL, Move, StateBusy, StateMoved
from spectron_migrate.state.store import StateStore, store_at

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

PATIENCE_S = 5.0
"""How long those who only look are waited for."""
_NOT_USERS = (LOCK, "fold.lock", "log.lock")
_STOP = "stop it first, and start it again on the copy; it is safe to stop at any moment"


@dataclass(frozen=True, slots=True)
class CopiedState:
    """A copy that is whole."""

    source: str
    target: str
    tables: tuple[TableDigest, ...]
    """What both places hold; empty where an earlier run had copied everything."""
    shards: int = 0
    """How many ledgers of shards were gathered."""
    is_backup: bool = False

    def to_json(self) -> dict[str, Json]:
        """As `--json` prints it."""
        return {
            "from": self.source,
            "to": self.target,
            "backup": self.is_backup,
            "sealed": not self.is_backup,
            "shards": self.shards,
            "tables": [{"name": each.name, "rows": each.rows, "sha256": each.sha256} for each in self.tables],
        }


def move_state(
    source: Path | PostgresLocation, target: Path | PostgresLocation, *, now: Callable[[], datetime], reporter: Reporter
) -> CopiedState:
    """Copy all of a state, and seal the place that it left.

    Raises StateBusy while somebody uses either place, and InputError for a target that is not empty.
    """
    _refuse_nested(source, target)
    with suppress(StateMoved):
        _fold(source)
    with _open(source) as left, left.alone(), _open(target, create=True) as filled, filled.alone():
        seal_of_source, mark = Move.read(left.read, SEAL), Move.read(filled.read, MARK)
        if seal_of_source is not None:
            if seal_of_source.target != seal.name_of(target):
                seal.refuse_left(left.read)
            if mark is None:
                left.leave()
                return CopiedState(left.name, filled.name, ())
            tables = _compare(left, filled, now=now())
        else:
            _refuse_unfinished(left.read)
            _refuse_nothing(left)
            move = _begin(mark, source, target, filled, now=now())
            tables = _fill(left, filled, now=now(), reporter=reporter)
            left.write(SEAL, move.to_bytes())
        left.leave()
        filled.remove(MARK)
        return CopiedState(left.name, filled.name, tables, shards=left.shards)


def back_up_state(
    source: Path | PostgresLocation, target: Path | PostgresLocation, *, now: Callable[[], datetime], reporter: Reporter
) -> CopiedState:
    """Copy all of a state as it is at one moment, while others go on with it; a replay from it asks for an adoption.

    Raises InputError for a target that is not empty.
    """
    _refuse_nested(source, target)
    with _open(source) as read, _open(target, create=True) as filled, filled.alone():
        seal.refuse_left(read.read)
        _refuse_nothing(read)
        began = now()
        _begin(Move.read(filled.read, MARK), source, target, filled, now=began)
        tables = _fill(read, filled, now=began, reporter=reporter, is_backup=True)
        filled.remove(MARK)
        return CopiedState(read.name, filled.name, tables, shards=read.shards, is_backup=True)


def _refuse_nested(source: Path | PostgresLocation, target: Path | PostgresLocation) -> None:
    if isinstance(source, Path) and isinstance(target, Path):
        here, there = source.resolve(), target.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise InputError(f"{source} and {target} are not two places", hint="copy it beside the directory")
    elif source == target:
        raise InputError(f"{source} and {target} are not two places")


def _fold(place: Path | PostgresLocation) -> None:
    """What dead processes reported is added up: in a database they would count as live for a minute."""
    if isinstance(place, Path):
        if place.is_dir():
            fold(place)
        return
    from spectron_migrate.state.postgres import PostgresState

    with closing(PostgresState(place)) as store:
        fold(store)


def _refuse_nothing(place: _Place) -> None:
    if place.is_empty():
        raise _no_state(place.name)


def _no_state(name: str) -> InputError:
    return InputError(f"there is no state in {name}", hint="is it the right place?")


def _refuse_unfinished(read: seal.Read) -> None:
    if read(MARK) is not None:
        seal.refuse_left(read)


def _begin(
    mark: Move | None,
    source: Path | PostgresLocation,
    target: Path | PostgresLocation,
    filled: _Place,
    *,
    now: datetime,
) -> Move:
    """Mark the target; what an earlier run of this copy left there is removed."""
    move = Move.between(source, target, now=format_time(now))
    if mark is None:
        if not filled.is_empty():
            raise InputError(
                f"{filled.name} is not empty: a state is copied to a place of its own",
                hint="name another directory, or another schema: postgresql://…?schema=NAME",
            )
    elif (mark.source, mark.source_host) != (move.source, move.source_host):
        seal.refuse_left(filled.read)
    filled.write(MARK, move.to_bytes())
    filled.clear()
    return move


def _fill(
    source: _Place, filled: _Place, *, now: datetime, reporter: Reporter, is_backup: bool = False
) -> tuple[TableDigest, ...]:
    with source.reading(now) as (state, ledger):
        if is_backup:
            state = state.with_all_unknown(now)
        reporter.info(f"copying {source.name} to {filled.name}")
        filled.fill(state, ledger)
        expected = _digests(state, ledger)
    found = _found(filled, now)
    _refuse_difference(source, filled, expected, found)
    if is_backup and ledger is not None:
        filled.note_backup(format_time(now))
    return tuple(found)


def _compare(source: _Place, filled: _Place, *, now: datetime) -> tuple[TableDigest, ...]:
    expected, found = _found(source, now), _found(filled, now)
    _refuse_difference(source, filled, expected, found)
    return tuple(found)


def _found(place: _Place, now: datetime) -> list[TableDigest]:
    with place.reading(now) as (state, ledger):
        return _digests(state, ledger)


def _digests(state: StateContents, ledger: Database | None) -> list[TableDigest]:
    return [*state.digests(), *(copying.digests_of(ledger) if ledger is not None else [])]


def _refuse_difference(source: _Place, filled: _Place, expected: list[TableDigest], found: list[TableDigest]) -> None:
    differ = [each.name for each in {*expected} ^ {*found}]
    if differ:
        raise MigrateError(
            f"{filled.name} does not hold what {source.name} does: {name_first(sorted(set(differ)))}",
            hint=f"the state still is in {source.name}; remove what is in {filled.name} and copy again",
        )


# -- the two kinds of places --


class _Place(Protocol):
    name: str
    shards: int

    def alone(self) -> AbstractContextManager[None]:
        """Keep everybody else from using the state; raises StateBusy."""

    def read(self, name: str) -> bytes | None:
        """A document."""

    def write(self, name: str, data: bytes) -> None:
        """Write a document, durably."""

    def remove(self, name: str) -> None:
        """Remove a document, durably."""

    def is_empty(self) -> bool:
        """Whether nothing of a state is there."""

    def clear(self) -> None:
        """Remove all but the mark."""

    def reading(self, now: datetime) -> AbstractContextManager[tuple[StateContents, Database | None]]:
        """All that is there, at one moment."""

    def fill(self, state: StateContents, ledger: Database | None) -> None:
        """Write everything, durably."""

    def note_backup(self, now: str) -> None:
        """Let the next replay ask for an adoption."""

    def leave(self) -> None:
        """Remove what an application in another language would go on reading here: it knows nothing of the seal."""


class _Directory:
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


class _Schema:
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
        pass  # whoever reads a state in Postgres holds the lock that says where it went


@contextmanager
def _open(place: Path | PostgresLocation, *, create: bool = False) -> Iterator[_Place]:
    if isinstance(place, Path):
        if create:
            make_private_directory(place)
        elif not place.is_dir():
            raise _no_state(str(place))
        yield _Directory(place)
        return
    # Whoever copies directories needs no psycopg.
    from spectron_migrate.database.opening import connect, connect_writer
    from spectron_migrate.database.tables import format_of
    from spectron_migrate.ledger.shared import PART
    from spectron_migrate.ledger.shared import make_tables as make_ledger
    from spectron_migrate.state.postgres_connection import make_state_tables

    if not create:
        with closing(connect(place)) as database:
            if format_of(database, PART) is None:
                raise _no_state(str(place))
    with closing(connect_writer(place)) as database:
        make_state_tables(database)
        make_ledger(database)
        yield _Schema(database)


def _refuse_processes(state: Path | StateStore, name: str) -> None:
    found = read_processes(state)
    living = sorted([*(f"{each.host}/{each.pid}" for each in found.reports), *found.broken])
    if living:
        raise StateBusy(f"applications use the state in {name}: {name_first(living)}", hint=_STOP)
