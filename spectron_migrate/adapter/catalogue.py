"""The catalogue: which memory a row of Spectron was made from, and what Mem0 knew of it, read from the ledger.

Spectron answers with ids of its own. The receipts in the ledger show from which memory each was made; the memories'
records hold what Mem0's callers expect: id, metadata, times. The catalogue writes nothing and caches nothing, so every
answer is as fresh as the ledger.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spectron_migrate.errors import MigrateError, Unreachable
from spectron_migrate.ledger import Ledger, MigrationRow
from spectron_migrate.ledger.cutover_note import completion_noted_at, cutover_note, describe_lost_journal
from spectron_migrate.ledger.read import memories, receipts, scopes
from spectron_migrate.ledger.read.memories import MemoryText
from spectron_migrate.ledger.read.scopes import SentVersion
from spectron_migrate.mapping import covers
from spectron_migrate.records import Memory, Selector, format_time
from spectron_migrate.state.store import StateStore, store_at

WIDEST = 20_000
"""The most facts in one lens for `get_all`. With more it raises TooWide."""
LOOK_EVERY_S = 1.0
"""How often to check whether another file has replaced the ledger."""
COMPLETING_S = 60.0
"""The journal records `complete` this long after the ledger, at most."""
PATIENCE_S = 2.0
"""How long a database may be silent. A search waits this long only once."""
MOST_TEXTS = 2_000
"""A row that no receipt names is compared with the texts of a lens only if the lens has at most this many facts."""

_PARENTS: list[Ledger] = []


class NoCatalogue(Exception):
    """No ledger can be read; the message says why."""


class TooWide(NoCatalogue):
    """The lens holds more facts than an application should keep in memory."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a memory, as it was written to Spectron."""

    no: int
    """The number of its fact in the ledger."""
    version: int
    text: str
    live: bool
    """Whether it is the newest text of a memory that Mem0 still has."""
    memories: tuple[Memory, ...]
    """What an application sees for it: the memory itself, or those memories of a message that Mem0 still has."""
    selector: Selector
    """The selector under which it was written."""
    turn_id: str | None
    chunk_id: str | None
    ids: frozenset[str]


class Catalogue:
    """Safe to use from several threads; opens the ledger at the first call."""

    def __init__(self, state: Path | StateStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`state`: the state of the migration, or its directory."""
        self._state = store_at(state)
        self._clock = clock
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None
        self._seen: int | None = None
        self._look_at = float("-inf")
        self._copied = False
        self._problem = "it is not connected yet"
        self._is_silent = False
        """Whether a database did not answer when the ledger was to be opened."""

    def migration(self) -> MigrationRow:
        """The migration of the ledger; raises NoCatalogue."""
        with self._reading():
            found = self._open().migration()
        if found is None:
            raise NoCatalogue("nothing was replayed yet")
        return found

    def made_of(self, lens: Selector, ids: Sequence[str]) -> dict[str, list[StoredVersion]]:
        """For each id of Spectron, the versions in the lens that it was made from; raises NoCatalogue."""
        with self._reading():
            ledger = self._open()
            facts = receipts.facts_made_into(ledger, ids)
            rows = _versions(ledger, {fact for each in facts.values() for fact in each})
        found = {
            each: [rows[fact] for fact in facts.get(each, ()) if fact in rows and covers(lens, rows[fact].selector)]
            for each in ids
        }
        return {each: made for each, made in found.items() if made}

    def all_in(self, lens: Selector) -> list[StoredVersion]:
        """All versions in the lens; none if there are more than `MOST_TEXTS`."""
        with self._reading():
            found = self._all_in(lens, MOST_TEXTS)
        return found if found is not None else []

    def was_in_old_text(self, lens: Selector, text: str, *, in_parts: bool) -> bool:
        """Whether Mem0 has deleted or replaced this text, which was sent to the lens; raises NoCatalogue.

        For passages that no receipt names: a later part of a long text (`in_parts`), or a text whose response never
        arrived or was late.
        """
        with self._reading():
            ledger = self._open()
            selectors = list(scopes.selectors_covered(ledger, lens))
            return scopes.has_overtaken_text(ledger, selectors, text, in_parts=in_parts)

    def memory(self, mem0_id: str) -> tuple[Memory, bool] | None:
        """A memory as Mem0 last returned it, and whether Mem0 still has it; None for an unknown id or a message."""
        with self._reading():
            return memories.shown_memory(self._open(), mem0_id)

    def versions(self, mem0_id: str) -> list[MemoryText]:
        """The texts of a memory that were planned, oldest first."""
        with self._reading():
            return memories.texts_of_memory(self._open(), mem0_id)

    def memories_in(self, lens: Selector) -> Iterator[Memory]:
        """The memories in the lens, each once; raises TooWide if there are too many."""
        with self._reading():
            rows = self._all_in(lens, WIDEST)
        if rows is None:
            raise TooWide(f"more than {WIDEST:,} memories in one scope")
        seen = {memory.id: memory for row in rows if row.live for memory in row.memories}
        return iter(seen.values())

    def places(self) -> Iterator[tuple[str, str]]:
        """Record and selector (JSON) of every current memory, read by a connection of its own; raises NoCatalogue."""
        try:
            with Ledger.open_for_reading(self._state) as ledger:
                yield from scopes.places_of_current(ledger)
        except (MigrateError, OSError, sqlite3.Error) as error:
            raise self._no_catalogue(error) from error

    def lost_journal(self, knows_of_one: bool, changed_at: str | None) -> str | None:
        """What the ledger knows of a cutover and the routing or the journal does not; see `RoutingReader`.

        Raises NoCatalogue if a database does not answer: then nobody knows.
        """
        try:
            with self._reading():
                noted, completed_at = cutover_note(self._open()), completion_noted_at(self._open())
        except (NoCatalogue, sqlite3.Error):
            if self._is_silent or (self._state.folder is None and self._ledger is not None):
                raise
            return None
        if changed_at is not None:
            # `complete` notes it in the ledger first; if that failed in between, the next step of the journal is later.
            ago = format_time(datetime.now(UTC) - timedelta(seconds=COMPLETING_S))
            is_old = completed_at is not None and changed_at < completed_at <= ago
            return describe_lost_journal("complete", is_older=True) if is_old else None
        is_newer = noted == "complete" or (noted is not None and not knows_of_one)
        return describe_lost_journal(noted) if noted is not None and is_newer else None

    def close(self) -> None:
        """Close the ledger."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
            self._ledger, self._seen, self._look_at = None, None, float("-inf")

    def forget_after_fork(self) -> None:
        """In a child process: SQLite's connections are the parent's, so they are neither used nor closed here."""
        if self._ledger is not None:
            _PARENTS.append(self._ledger)
        self._lock = threading.RLock()
        self._ledger, self._seen, self._look_at = None, None, float("-inf")

    def connect(self) -> None:
        """Open a ledger in a database, or reopen it after its connection was lost.

        This takes longer than a search may wait.
        """
        if self._state.folder is not None or self._clock() < self._look_at or self._is_connected():
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            ledger = Ledger.open_for_reading(self._state, timeout_s=PATIENCE_S)
        except (MigrateError, OSError) as error:
            self._problem = getattr(error, "message", str(error))
            self._is_silent = isinstance(error, Unreachable | OSError)
            return
        self._is_silent = False
        with self._lock:
            lost, self._ledger = self._ledger, ledger
        if lost is not None:
            lost.close()

    def _is_connected(self) -> bool:
        return self._ledger is not None and not self._ledger.is_lost

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A block in which no other thread reads the ledger; raises NoCatalogue if a database stops answering."""
        with self._lock:
            try:
                yield
            except MigrateError as error:
                raise self._no_catalogue(error) from error

    # -- the file -----------------------------------------------------------------------------------------

    def _open(self) -> Ledger:
        """The ledger, reopened if another file has replaced it."""
        folder = self._state.folder
        if folder is None:
            if self._ledger is None or self._ledger.is_lost:
                raise NoCatalogue(f"the ledger in {self._state} cannot be read: {self._problem}")
            return self._ledger
        if self._ledger is not None and self._clock() < self._look_at:
            return self._ledger
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            if self._ledger is not None and self._ledger.is_outdated_copy:
                self.close()
                self._copied = True  # opened only once, because a copy does not show what another version writes later
            seen = _identity(folder)
            if self._ledger is None or seen != self._seen:
                self.close()
                self._ledger = self._open_file(folder)
                self._seen, self._look_at = seen, self._clock() + LOOK_EVERY_S
        except (MigrateError, OSError, sqlite3.Error) as error:
            self.close()
            raise self._no_catalogue(error) from error
        return self._ledger

    def _no_catalogue(self, error: Exception) -> NoCatalogue:
        return NoCatalogue(f"the ledger in {self._state} cannot be read: {getattr(error, 'message', error)}")

    def _open_file(self, folder: Path) -> Ledger:
        ledger = Ledger.open_for_reading(folder)
        if ledger.is_copy and self._copied:
            ledger.close()
            raise NoCatalogue(f"an older version of spectron-migrate is writing the ledger in {folder}")
        return ledger

    # -- receipts -----------------------------------------------------------------------------------------

    def _all_in(self, lens: Selector, most: int) -> list[StoredVersion] | None:
        ledger = self._open()
        facts = scopes.stored_facts(ledger, list(scopes.selectors_covered(ledger, lens)), most)
        return None if facts is None else list(_versions(ledger, facts).values())


def _versions(ledger: Ledger, facts: Iterable[int]) -> dict[int, StoredVersion]:
    return {row.fact: _stored(row) for row in scopes.sent_versions(ledger, list(facts))}


def _identity(folder: Path) -> int | None:
    """A value that changes if another ledger replaces this one."""
    path = folder / "ledger.db"
    return path.stat().st_ino if path.exists() else None


def _stored(row: SentVersion) -> StoredVersion:
    return StoredVersion(
        no=row.fact,
        version=row.number,
        text=row.text,
        live=row.is_current and bool(row.memories),
        memories=row.memories,
        selector=row.selector,
        turn_id=row.turn_id,
        chunk_id=row.chunk_id,
        ids=row.ids,
    )
