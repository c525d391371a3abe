"""Opens the ledger: checks which migration it belongs to, lets one process write, and keeps its directory private.

What only Postgres needs, or only a ledger of an earlier format, is imported where it is used: most commands need
neither, and `status` is to begin at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import InputError, LedgerLocked, WrongLedger
from spectron_migrate.files.locks import FileLock, holder_of, try_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger import sqlite
from spectron_migrate.ledger.schema import DDL, FORMAT
from spectron_migrate.records import digest
from spectron_migrate.state import seal
from spectron_migrate.state.shards import refuse_shards
from spectron_migrate.state.store import StateStore, place_of

if TYPE_CHECKING:
    import sqlite3

    from spectron_migrate.ledger.workers import Workers

_PLANNED = ("fact", "version", "memory", "selector_path", "selector", "lane", "plan", "scan", "scope", "migration")
"""The tables that hold a plan of which nothing was sent, in an order in which they can be emptied."""


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """The migration that a ledger belongs to."""

    id: str
    endpoint: str | None
    context: str
    principal: str | None
    source: str
    mapping_digest: str
    scopes_listed_at: str | None


def migration_id(context: str, source: str) -> str:
    """Computed from context and source alone.

    So a new ledger computes the same keys as one that was lost, and nothing is written twice.
    """
    return digest("migration", context, source)[:16]


class Ledger:
    """One ledger, in a file or in a schema of Postgres.

    The functions of this package take it as their first argument.
    """

    def __init__(
        self,
        path: Path | PostgresLocation,
        connection: Database,
        *,
        begin: Callable[[bool], AbstractContextManager[object]] | None = None,
        lock: FileLock | None = None,
        private: sqlite.PrivateDatabase | None = None,
        stamp: tuple[int, ...] | None = None,
        discard: Callable[[], None] | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Use `open_for_writing`, `open_for_work`, `open_for_reading` or `scratch_copy`.

        `begin`: starts a transaction, durable or not; None for a copy, whose only transaction is thrown away.
        `discard`: removes the ledger.
        """
        self.path = path
        self.db = connection
        self.workers = workers
        """This process as one of several that deliver from this ledger; None if it is the only writer."""
        self._begin = begin
        self._discard = discard
        self._lock = lock
        self._private = private
        self._stamp = stamp

    @classmethod
    def open_for_writing(cls, state: Path | PostgresLocation | StateStore, *, create: bool = True) -> Ledger:
        """Open `state/ledger.db`, or the tables of a schema, as the only writer; raises LedgerLocked naming another.

        A ledger of an earlier format is brought up to date; a copy of it stays as `ledger-format-N.db`.
        """
        place = place_of(state)
        if isinstance(place, PostgresLocation):
            from spectron_migrate.ledger import shared

            database = shared.open_for_writing(place, create=create)
            return cls(
                place,
                database,
                begin=lambda durable: database.transaction(durable=durable),
                discard=lambda: shared.discard(database),
            )
        make_private_directory(place)
        path = place / "ledger.db"
        if not create and not path.exists():
            raise InputError(f"there is no ledger at {path}", hint=sqlite.WHERE_IS_IT)
        lock = _lock(place / "ledger.lock")
        try:
            if not path.exists():
                sqlite.create_file(path, DDL, FORMAT)
            connection = sqlite.connect(path, read_only=False)
            found = sqlite.format_of(connection, path, FORMAT)
            sqlite.prepare_for_writing(connection)
            if found != FORMAT:
                with sqlite.disk_errors(connection, path):
                    sqlite.keep_copy(connection, path.with_name(f"ledger-format-{found}.db"))
                    _bring_up_to_date(connection)
        except BaseException:
            lock.close()
            raise
        return cls(
            path,
            connection,
            begin=lambda durable: sqlite.transaction(connection, path, durable=durable),
            lock=lock,
            discard=lambda: _discard(path),
        )

    @classmethod
    def open_for_delivery(cls, state: Path | PostgresLocation | StateStore, *, lost: Database | None = None) -> Ledger:
        """Open a ledger in a directory as its only writer, or one in a schema as one of several.

        `lost`: the connection that this one replaces. One of several writers may write only once `workers.try_join`
        says so.
        """
        location = place_of(state)
        if not isinstance(location, PostgresLocation):
            return cls.open_for_writing(location)
        from spectron_migrate.ledger import shared
        from spectron_migrate.ledger.workers import Workers

        database = shared.open_for_work(location, lost)
        workers = Workers(database)
        return cls(
            location,
            database,
            begin=lambda durable: database.transaction(durable=durable),
            discard=lambda: shared.discard(database),
            workers=workers,
        )

    @staticmethod
    def exists(state: Path | PostgresLocation | StateStore) -> bool:
        """Whether the state has a ledger; if that cannot be told, raises what `open_for_reading` raises."""
        place = place_of(state)
        if not isinstance(place, PostgresLocation):
            return (place / "ledger.db").exists()
        from spectron_migrate.ledger import shared

        return shared.exists(place)

    @classmethod
    def open_for_reading(cls, state: Path | PostgresLocation | StateStore, *, timeout_s: float = 10.0) -> Ledger:
        """Open an existing ledger beside the process that writes it; raises InputError if there is none.

        `timeout_s`: how long a database may be silent. Reading changes no file: if the ledger has an earlier format, a
        private copy is brought up to date and read.
        """
        place = place_of(state)
        if isinstance(place, PostgresLocation):
            from spectron_migrate.ledger import shared

            return cls(place, shared.open_for_reading(place, timeout_s=timeout_s))
        path = place / "ledger.db"
        if not path.exists():
            raise InputError(f"there is no ledger at {path}", hint=sqlite.WHERE_IS_IT)
        connection = sqlite.connect(path, read_only=True)
        if sqlite.format_of(connection, path, FORMAT) == FORMAT:
            return cls(path, connection)
        stamp = sqlite.file_stamp(path)
        try:
            private = sqlite.private_database(place, connection)
        finally:
            connection.close()
        _bring_up_to_date(private.connection)
        return cls(path, private.connection, private=private, stamp=stamp)

    @classmethod
    @contextmanager
    def scratch_copy(cls, state: Path | PostgresLocation | StateStore) -> Iterator[Ledger]:
        """A private copy, to plan into and then throw away; empty if there is no ledger yet."""
        place = place_of(state)
        if isinstance(place, PostgresLocation):
            from spectron_migrate.ledger import shared

            with shared.scratch_copy(place) as private:
                yield cls(place, private.connection, private=private)
            return
        path = place / "ledger.db"
        fresh = not place.is_dir()
        with suppress(OSError):  # only the copy needs the folder, and the directory for temporary files would do
            make_private_directory(place)
        original = sqlite.connect(path, read_only=True) if path.exists() else None
        try:
            if original is not None:
                sqlite.format_of(original, path, FORMAT)
            private = sqlite.private_database(place, original)
        finally:
            if original is not None:
                original.close()
        try:
            if original is None:
                private.connection.executescript(f"{DDL}PRAGMA user_version = {FORMAT};")
            _bring_up_to_date(private.connection)
            private.connection.execute("BEGIN IMMEDIATE")  # never committed, because the copy is thrown away
            if fresh and place.is_dir():
                _remove_empty(place)
            yield cls(path, private.connection, private=private)
        finally:
            private.close()

    @property
    def is_copy(self) -> bool:
        """Whether this is a private copy, brought up to date, of a ledger of an earlier format."""
        return self._stamp is not None

    @property
    def is_outdated_copy(self) -> bool:
        """Whether this is a copy of a ledger of an earlier format that was written again since then."""
        return self._stamp is not None and isinstance(self.path, Path) and self._stamp != sqlite.file_stamp(self.path)

    @property
    def is_lost(self) -> bool:
        """Whether its connection to Postgres is broken."""
        return bool(getattr(self.db, "is_lost", False))

    def close(self) -> None:
        """Close the ledger and release its lock. A new ledger that no run has claimed is deleted."""
        unclaimed = not self.is_lost and self._is_unclaimed()
        if unclaimed and self._lock is None and self._discard is not None:
            self._discard()  # while the connection still holds the lock
        self.db.close()
        if self._private is not None:
            self._private.close()
        if unclaimed and self._lock is not None and self._discard is not None:
            self._discard()
        if self._lock is not None:
            self._lock.close()

    def _is_unclaimed(self) -> bool:
        if self.workers is not None and not self.workers.is_alone:
            return False
        return self._discard is not None and self.migration() is None and not self._probed()

    def _probed(self) -> bool:
        return self.db.execute("SELECT 1 FROM probe").fetchone() is not None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Database]:
        """A transaction. `durable`: it survives a power cut when this returns, not only the end of the process.

        Raises InputError if the disk does not take it.
        """
        if self._begin is None:
            yield self.db  # the whole copy is thrown away
            return
        with self._begin(durable):
            yield self.db
        if self.workers is not None:
            self.workers.after_commit()

    def migration(self) -> MigrationRow | None:
        """The migration that the ledger belongs to; None before the first plan."""
        row = self.db.execute(
            "SELECT id, endpoint, context, principal, source, mapping_digest, scopes_listed_at FROM migration"
        ).fetchone()
        return MigrationRow(*row) if row else None

    def claim(self, *, context: str, source: str, mapping_digest: str, tool_version: str, now: str) -> MigrationRow:
        """Make this the ledger of a migration, or check that it is; raises WrongLedger if it is another's.

        Call inside a transaction.

        A ledger from which nothing was sent yet belongs to nobody: a plan for another context or source replaces its
        plan.
        """
        known = self.migration()
        if known is not None and (known.context, known.source) != (context, source) and not self._has_sent():
            self._forget_plan()
            known = None
        if known is None:
            self.db.execute(
                "INSERT INTO migration"
                "(id, context, source, mapping_digest, shard, shards, tool_version, created_at)"
                " VALUES (?, ?, ?, ?, 0, 1, ?, ?)",
                (migration_id(context, source), context, source, mapping_digest, tool_version, now),
            )
            known = self.migration()
            assert known is not None  # noqa: S101 - just inserted
            return known
        for name, theirs, ours in (("context", known.context, context), ("source", known.source, source)):
            if theirs != ours:
                raise WrongLedger(
                    f"the ledger at {self.path} belongs to {name} {theirs}, not {ours}",
                    hint="give each migration its own --state",
                )
        return known

    def _has_sent(self) -> bool:
        """Whether a scope or a session was ever intended: from then on the ledger belongs to a server."""
        sent = "SELECT 1 FROM session UNION ALL SELECT 1 FROM scope WHERE intended_at IS NOT NULL"
        return self.db.execute(f"{sent} LIMIT 1").fetchone() is not None

    def _forget_plan(self) -> None:
        for table in _PLANNED:
            self.db.execute(f"DELETE FROM {table}")

    def keep_server(self, endpoint: str, principal: str) -> None:
        """Record where the migration writes, and as which principal. Call inside a transaction."""
        self.db.execute("UPDATE migration SET endpoint = ?, principal = ?", (endpoint, principal))


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    from spectron_migrate.ledger import upgrade

    upgrade.bring_up_to_date(connection)


def _discard(path: Path) -> None:
    """Delete the ledger of a run that was refused before it planned anything."""
    for left in (path, path.with_name("ledger.db-wal"), path.with_name("ledger.db-shm"), path.with_name("ledger.lock")):
        left.unlink(missing_ok=True)
    _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    if {left.name for left in folder.iterdir()} <= {".gitignore"}:
        (folder / ".gitignore").unlink(missing_ok=True)
        folder.rmdir()


def _lock(path: Path) -> FileLock:
    lock = try_lock(path)
    if lock is None:
        raise LedgerLocked(
            f"the ledger in {path.parent} is being written by {holder_of(path)}",
            hint="wait for it, or stop it; it is safe to stop at any moment",
        )
    try:
        seal.refuse_left_directory(path.parent)
        refuse_shards(path.parent)
    except BaseException:
        lock.close()
        raise
    return lock
