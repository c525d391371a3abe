"""The interface to where a state keeps what its processes share: documents, the journal, and locks.

There are two implementations: a directory (`state/directory.py`), and a schema of Postgres for several hosts
(`state/postgres.py`). The rules about the contents are in the modules that use this interface. Names are those of the
files in a state directory. All methods raise OSError if the state cannot be read or written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.records import Json
from spectron_migrate.state.directory import DirectoryState

if TYPE_CHECKING:
    from spectron_migrate.state.call_log import CallLines


class Lock(Protocol):
    """A lock that this process holds until `close`, or until the process ends in any way."""

    @property
    def is_lost(self) -> bool:
        """Whether another process may hold the lock in the meantime."""

    def close(self) -> None:
        """Release the lock; may be called twice."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tables(Protocol):
    """Some tables. Safe to use from several threads. All methods raise OSError or sqlite3.Error."""

    prefix: str
    """How their names begin."""

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""

    def change(self, *statements: tuple[str, Sequence[Sequence[Any]]]) -> None:
        """Run each statement for each of its rows, in one transaction that is durable."""

    def close(self) -> None:
        """May be called twice."""


class StateStore(Protocol):
    """The shared part of one state. Safe to use from several threads."""

    @property
    def place(self) -> Path | PostgresLocation:
        """Where the state is; the ledger is there as well."""

    @property
    def folder(self) -> Path | None:
        """The directory; None for a state that several hosts share."""

    @property
    def work_folder(self) -> Path:
        """A directory for files that only this host needs; it may not exist yet."""

    def describe(self, name: str) -> str:
        """Where something is kept, for messages."""

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """A document, or its first `most` bytes; None if there is none."""

    def write(self, name: str, data: bytes, *, durable: bool = False, public: bool = False, epoch: int = 0) -> None:
        """Replace a document as a whole.

        `durable`: it survives a power cut. `public`: other users of the machine may read it. `epoch`: a document with a
        greater epoch stays, if writers are not kept apart by a lock that ends with them.
        """

    def version(self, name: str) -> object:
        """A value that changes whenever this document or journal does; None if there is none."""

    def age_s(self, name: str) -> float:
        """Seconds since a document was written; infinity if there is none."""

    def names(self, folder: str) -> list[str]:
        """The documents `<folder>/*.json`, sorted."""

    def remove(self, name: str) -> None:
        """Remove a document, if there is one."""

    def lines(self, name: str) -> list[bytes]:
        """The complete lines of a journal, each with its newline, without one that a crash cut off."""

    def append_line(self, name: str, line: bytes, *, after: Sequence[bytes]) -> bool:
        """Append a line to a journal, durably, after these lines; False if the journal has others in the meantime."""

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace all lines of a journal, each with its newline; `remove` removes the journal."""

    def has_journal(self, name: str) -> bool:
        """Whether a journal was ever begun."""

    def has_begun(self) -> bool:
        """Whether a migration has begun here. If not, it may be an empty place that was named by mistake."""

    def lock(self, name: str) -> Lock:
        """Take a lock as soon as no other process holds it. For locks that are held only briefly."""

    def try_lock(self, name: str) -> Lock | None:
        """Take a lock; None while another process holds it."""

    def is_locked(self, name: str) -> bool:
        """Whether a living process holds this lock."""

    def holder_of(self, name: str) -> str:
        """Who holds a lock, for a message."""

    def prepare(self) -> None:
        """Make the directory if it does not exist. A schema is made by the first change."""

    def is_there(self) -> bool:
        """Whether the directory or schema exists, whatever it contains."""

    def close(self) -> None:
        """Close the connections. May be called twice, and the state may be used again."""

    def call_log(self, *, patience_s: float = ...) -> CallLines:
        """Open the log of calls. `patience_s`: how long each of its methods may wait for a database."""

    def tables(self, name: str, ddl: str, *, busy_s: float = 5.0) -> Tables:
        """Open small tables, created with `ddl` if they do not exist. Raises sqlite3.Error as well.

        `busy_s`: how long opening or changing a file waits for other processes.
        """


def store_at(state: Path | PostgresLocation | StateStore) -> StateStore:
    """The store for this directory or schema; a given store is returned as it is.

    A process needs only one store for a schema.
    """
    if isinstance(state, Path):
        return DirectoryState(state)
    if isinstance(state, PostgresLocation):
        # Not needed for a directory.
        from spectron_migrate.state.postgres import PostgresState

        return PostgresState(state)
    return state


def place_of(state: Path | PostgresLocation | StateStore) -> Path | PostgresLocation:
    """Where a state is. Its ledger is there as well."""
    return state if isinstance(state, PostgresLocation) else store_at(state).place


def read_object(state: Path | StateStore, name: str) -> dict[str, Json] | None:
    """The object that `write_object` wrote; None if there is none, or it cannot be read."""
    try:
        value = json.loads(store_at(state).read(name) or b"")
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_object(state: Path | StateStore, name: str, value: Mapping[str, Json]) -> None:
    """Replace a document that holds a small JSON object."""
    store_at(state).write(name, (json.dumps(value, indent=1) + "\n").encode())
