"""The ledger as an SQLite file: connections, durability, and private copies."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spectron_migrate.database.interface import Database
from spectron_migrate.errors import InputError
from spectron_migrate.files.atomic import sync_folder
from spectron_migrate.files.locks import is_held, lock_handle

LARGEST_JOURNAL = 64 * 2**20
"""The most bytes of SQLite's journal that stay between transactions.

Otherwise a plan of a million memories leaves 2 GB.
"""

WHERE_IS_IT = (
    "is this the right directory, or the right --state? a new migration begins with spectron-migrate init, and its"
    " first replay makes the ledger"
)
"""The hint if there is no ledger. In a wrong directory, the command that makes one would begin a second migration."""

_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_DISK = (*_OF_THE_DISK, sqlite3.SQLITE_BUSY)
"""Errors caused by the disk, or by another process that holds the file. Every other error is a bug in this program."""

_CACHE_KIB = 2 << 10
"""The page cache of a connection that writes, which is full after some thousand memories. Twice as much saves a tenth
of what is read and written while planning, and no processor time; 16 times as much saves 5 % of that.
"""
_PRIVATE = {
    "locking_mode": "EXCLUSIVE",
    "journal_mode": "OFF",
    "synchronous": "OFF",
    "cache_size": f"-{_CACHE_KIB}",
}
"""Settings for a file that nobody else sees and that is not kept: it needs no journal."""
_PRIVATE_NAME = ".scratch-"


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a file that is there."""
    if not read_only:
        return _connect(path, "rw")
    # Reading a ledger in WAL mode creates a file beside it. If nobody can create files there, nobody writes either.
    journal = path.with_name(f"{path.name}-wal")
    if not journal.exists() and not os.access(path.parent, os.W_OK):
        return _connect(path, "ro&immutable=1")
    connection = _connect(path, "ro")
    try:
        connection.execute("PRAGMA user_version")
    except sqlite3.DatabaseError as error:
        of_the_disk = error.sqlite_errorcode & 0xFF in _OF_THE_DISK
        if of_the_disk and not (journal.exists() and journal.stat().st_size):  # a full disk stops writers too
            connection.close()
            return _connect(path, "ro&immutable=1")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Used by one thread at a time (`writer`).
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30.0,
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def prepare_for_writing(connection: sqlite3.Connection) -> None:
    """Use SQLite's write-ahead log, so that readers never block the writer."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {LARGEST_JOURNAL}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


def create_file(path: Path, ddl: str, version: int) -> None:
    """Create a ledger under another name and rename it, so that a reader finds it complete or not at all."""
    pending = path.with_name(".ledger.db.new")
    for left in (pending, *path.parent.glob(".ledger.db.new-*")):
        left.unlink(missing_ok=True)
    pending.touch(mode=0o600)
    connection = connect(pending, read_only=False)
    prepare_for_writing(connection)
    connection.executescript(f"BEGIN IMMEDIATE;{ddl}PRAGMA user_version = {version};COMMIT;")
    connection.close()
    pending.replace(path)


def format_of(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """The file's format.

    Raises InputError for a format that this version does not read, and for a file of another kind.
    """
    try:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _DISK:
            raise InputError(
                f"the ledger {path} cannot be read: {error}",
                hint="is there room on the disk? SQLite makes a file beside a ledger that it reads",
            ) from error
        raise InputError(f"{path} is no ledger: {error}", hint="is --state right?") from error
    if not 1 <= found <= newest:
        raise InputError(
            f"the ledger at {path} has format {found}, this version reads formats 1 to {newest}",
            hint="go on with the version of spectron-migrate that wrote it last",
        )
    return found


def keep_copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the database into a private file of this name, durably."""
    pending = path.with_name(f".{path.name}.new")
    pending.unlink(missing_ok=True)
    handle = os.open(pending, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        copy = sqlite3.connect(pending)
        connection.backup(copy)
        copy.close()
        os.fsync(handle)
    finally:
        os.close(handle)
    pending.replace(path)
    sync_folder(path.parent)


def drop_index(db: Database, name: str) -> str | None:
    """Drop an index within a transaction; returns the statement that makes it again.

    Does nothing in Postgres, where everybody else would have to wait for the end of the transaction.
    """
    if not isinstance(db, sqlite3.Connection):
        return None
    [sql] = db.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = ?", (name,)).fetchone()
    db.execute(f"DROP INDEX {name}")
    return str(sql)


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path, *, durable: bool) -> Iterator[None]:
    """A transaction. `durable`: it survives a power cut when this returns, not only the end of the process.

    Raises InputError if the disk does not take it.
    """
    with disk_errors(connection, path):
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")


@contextmanager
def disk_errors(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Roll back on any error; raises InputError if the disk caused it."""
    try:
        yield
    except BaseException as error:
        if connection.in_transaction:  # a full disk has already ended the transaction
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _DISK:
            raise InputError(
                f"the ledger {path} cannot be written: {error}",
                hint="nothing that was recorded is lost; is there room on the disk? then run the command again",
            ) from error
        raise


@dataclass(frozen=True, slots=True)
class PrivateDatabase:
    """A database in a file without a name, so that nothing remains of it even if the process is killed."""

    connection: sqlite3.Connection
    _handle: int

    def close(self) -> None:
        """Remove it."""
        self.connection.close()
        os.close(self._handle)


def private_database(folder: Path, original: sqlite3.Connection | None) -> PrivateDatabase:
    """A copy of the original, or an empty database.

    It is in `folder` or, if that is not writable, in the directory for temporary files. It is on disk, so that a large
    ledger needs no more memory than a small one.
    """
    for left in folder.glob(f"{_PRIVATE_NAME}*"):
        if not is_held(left):
            left.unlink(missing_ok=True)  # left by a process that was killed before it removed its file's name
    try:
        handle, name = tempfile.mkstemp(prefix=_PRIVATE_NAME, dir=folder)
    except OSError:
        handle, name = tempfile.mkstemp(prefix=_PRIVATE_NAME)
    connection = None
    try:
        lock_handle(handle)
        connection = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        if original is not None:
            original.backup(connection)
        for setting, value in _PRIVATE.items():
            connection.execute(f"PRAGMA {setting} = {value}")
        connection.execute("BEGIN IMMEDIATE")  # takes the lock and keeps it, so the name is not needed again
        connection.execute("COMMIT")
    except BaseException:
        if connection is not None:
            connection.close()
        os.close(handle)
        raise
    finally:
        Path(name).unlink(missing_ok=True)
    return PrivateDatabase(connection, handle)


def file_stamp(path: Path) -> tuple[int, ...]:
    """A stamp that changes whenever somebody writes the ledger."""
    stamp: list[int] = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            stat = file.stat()
        except OSError:
            stamp += [0, 0]
        else:
            stamp += [stat.st_size, stat.st_mtime_ns]
    return tuple(stamp)
