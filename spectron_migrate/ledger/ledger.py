"""Opening the ledger: the right one, by one process alone, in a private directory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.errors import InputError, LedgerLocked, WrongLedger
from spectron_migrate.files.locks import FileLock, holder_of, is_held, lock_handle, try_lock
from spectron_migrate.files.private import make_private_directory
from spectron_migrate.ledger.schema import ADDED, DDL, MIGRATIONS, VERSION
from spectron_migrate.records import digest

LARGEST_JOURNAL = 64 * 2**20
"""Bytes of SQLite's journal that stay between transactions: a plan of a million memories leaves 2 GB otherwise."""


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """Whose ledger this is."""

    id: str
    endpoint: str | None
    context: str
    principal: str | None
    source: str
    mapping_digest: str
    scopes_listed_at: str | None


def migration_id(context: str, source: str) -> str:
    """The same for the same context and source, so that a lost ledger meets its old keys instead of doubling."""
    return digest("migration", context, source)[:16]


class Ledger:
    """One ledger file. Methods of other modules here take it as their first argument."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: FileLock | None, *, scratch: bool = False
    ) -> None:
        """Use `open_for_writing`, `open_for_reading` or `scratch_copy`."""
        self.path = path
        self.db = connection
        self._lock = lock
        self._scratch = scratch

    @classmethod
    def open_for_writing(cls, state: Path, *, create: bool = True) -> Ledger:
        """Open `state/ledger.db` as its only writer; raises LedgerLocked naming the other process."""
        make_private_directory(state)
        path = state / "ledger.db"
        if not create and not path.exists():
            raise InputError(f"there is no ledger at {path}", hint="spectron-migrate replay makes it, or name --state")
        lock = _lock(state / "ledger.lock")
        try:
            if not path.exists():
                _make(path)
            connection = _connect(path, read_only=False)
            _prepare(connection, path)
        except BaseException:
            lock.close()
            raise
        return cls(path, connection, lock)

    @classmethod
    def open_for_reading(cls, state: Path) -> Ledger:
        """Open an existing ledger beside whoever writes it; raises InputError where there is none."""
        path = state / "ledger.db"
        try:
            connection = _connect(path, read_only=True)
        except sqlite3.OperationalError as error:
            if path.exists():
                raise
            raise InputError(
                f"there is no ledger at {path}", hint="spectron-migrate replay makes it, or name --state"
            ) from error
        _check_version(connection, path)
        _read_as_of_today(connection)
        return cls(path, connection, None)

    @classmethod
    @contextmanager
    def scratch_copy(cls, state: Path) -> Iterator[Ledger]:
        """A private copy that may be planned into and is thrown away; empty where there is no ledger yet.

        On the disk, so that memory stays flat however many memories there are; its file loses its name at once,
        so that nothing is left of it even where the process is killed.
        """
        path = state / "ledger.db"
        fresh = not state.is_dir()
        make_private_directory(state)
        for left in state.glob(".scratch-*"):
            if not is_held(left):
                left.unlink(missing_ok=True)  # of a process that was killed before its file had lost its name
        file = state / f".scratch-{os.getpid()}"
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        lock_handle(held)
        connection = sqlite3.connect(file, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            if path.exists():
                original = _connect(path, read_only=True)
                _check_version(original, path)
                original.backup(connection)
                original.close()
                _bring_up_to_date(connection)
            for name, value in _SCRATCH.items():
                connection.execute(f"PRAGMA {name} = {value}")
            if not path.exists():
                connection.executescript(DDL)
            connection.execute("BEGIN IMMEDIATE")  # for good: nothing of this is ever committed
            file.unlink()
            if fresh:
                _remove_empty(state)
            yield cls(path, connection, None, scratch=True)
        finally:
            file.unlink(missing_ok=True)
            connection.close()
            os.close(held)

    def close(self) -> None:
        """Close the file and let others in. A ledger that nobody claimed is none: it goes again."""
        unclaimed = self._lock is not None and self.migration() is None and not self._probed()
        self.db.close()
        if unclaimed:
            _discard(self.path)
        if self._lock is not None:
            self._lock.close()

    def _probed(self) -> bool:
        return self.db.execute("SELECT 1 FROM probe").fetchone() is not None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing. `durable`: on the disk when this returns, not only safe from our own death.

        Raises InputError where the disk does not take it.
        """
        if self._scratch:
            yield self.db  # thrown away as a whole
            return
        try:
            self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except BaseException as error:
            if self.db.in_transaction:  # a disk that is full has ended it already
                self.db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _DISK:
                raise InputError(
                    f"the ledger {self.path} cannot be written: {error}",
                    hint="nothing that was recorded is lost; is there room on the disk? running again goes on",
                ) from error
            raise

    def migration(self) -> MigrationRow | None:
        """Whose ledger this is; None while nothing was planned."""
        row = self.db.execute(
            "SELECT id, endpoint, context, principal, source, mapping_digest, scopes_listed_at FROM migration"
        ).fetchone()
        return MigrationRow(*row) if row else None

    def claim(
        self,
        *,
        context: str,
        source: str,
        mapping_digest: str,
        tool_version: str,
        now: str,
        shard: tuple[int, int] = (0, 1),
    ) -> MigrationRow:
        """Make this the ledger of a migration, or check that it is; raises WrongLedger. Call inside a transaction."""
        known = self.migration()
        if known is None:
            self.db.execute(
                "INSERT INTO migration"
                "(id, context, source, mapping_digest, shard, shards, tool_version, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (migration_id(context, source), context, source, mapping_digest, *shard, tool_version, now),
            )
            known = self.migration()
            assert known is not None  # noqa: S101 - just inserted
            return known
        for name, theirs, ours in (("context", known.context, context), ("source", known.source, source)):
            if theirs != ours:
                raise WrongLedger(
                    f"the ledger at {self.path} belongs to {name} {theirs}, not {ours}",
                    hint="give each migration its own --state directory",
                )
        return known

    def keep_server(self, endpoint: str, principal: str) -> None:
        """Note where the migration writes, and as whom. Call inside a transaction."""
        self.db.execute("UPDATE migration SET endpoint = ?, principal = ?", (endpoint, principal))


_DISK = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
)
"""What a disk, or somebody else at the file, keeps from being written; the rest would be a bug of ours."""

_SCRATCH = {"locking_mode": "EXCLUSIVE", "journal_mode": "OFF", "synchronous": "OFF", "cache_size": "-32768"}
"""What nobody else sees and nobody keeps needs no journal; 32 MB of it stay in memory."""


def _discard(path: Path) -> None:
    """Leave nothing behind of a run that was refused before it planned anything."""
    for left in (path, path.with_name("ledger.db-wal"), path.with_name("ledger.db-shm"), path.with_name("ledger.lock")):
        left.unlink(missing_ok=True)
    _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    if {left.name for left in folder.iterdir()} <= {".gitignore"}:
        (folder / ".gitignore").unlink(missing_ok=True)
        folder.rmdir()


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    # Written from one thread at a time (`writer`), never from two at once.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30.0,
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _make(path: Path) -> None:
    """A new ledger appears whole under its name: whoever reads meets it ready or not at all."""
    pending = path.with_name(".ledger.db.new")
    for left in (pending, *path.parent.glob(".ledger.db.new-*")):
        left.unlink(missing_ok=True)
    pending.touch(mode=0o600)
    connection = _connect(pending, read_only=False)
    _prepare(connection, pending)
    connection.close()
    pending.replace(path)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {LARGEST_JOURNAL}")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0 and not _tables(connection):
        connection.executescript(f"BEGIN IMMEDIATE;{DDL}PRAGMA user_version = {VERSION};COMMIT;")
    _check_version(connection, path)
    _bring_up_to_date(connection)


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """One version after the other, each whole or not at all."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    for version in range(found, VERSION):
        connection.executescript(f"BEGIN IMMEDIATE;{MIGRATIONS[version]}PRAGMA user_version = {version + 1};COMMIT;")


def _read_as_of_today(connection: sqlite3.Connection) -> None:
    """Reading changes no older ledger: views of this connection stand before the tables that lack columns."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    lacking: dict[str, tuple[str, ...]] = {}
    for version in range(found, VERSION):
        for table, columns in ADDED[version].items():
            lacking[table] = lacking.get(table, ()) + columns
    for table, columns in lacking.items():
        connection.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {', '.join(columns)} FROM main.{table}")


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is no ledger: {error}", hint="is --state right?") from error
    if not 1 <= found <= VERSION:
        raise InputError(
            f"the ledger at {path} has format {found}, this version reads formats 1 to {VERSION}",
            hint="go on with the version of spectron-migrate that wrote it last",
        )


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _lock(path: Path) -> FileLock:
    lock = try_lock(path)
    if lock is None:
        raise LedgerLocked(
            f"the ledger in {path.parent} is being written by {holder_of(path)}",
            hint="wait for it, or stop it; it is safe to stop at any moment",
        )
    return lock
