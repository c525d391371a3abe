"""Reads a store that can be listed.

The store answers a few questions; one reader for all stores proves that nothing is missing.

A store without a snapshot is listed twice. The first listing yields the rows. The second lists only keys, and rows that
appeared in between are fetched. So every row that existed when the second listing began is read. The length of that
listing is compared with the store's own count, because both listings can be short.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import Incomplete, InputError, MigrateError
from spectron_migrate.fast_json import loads
from spectron_migrate.mem0.normalise import from_payload
from spectron_migrate.mem0.reader import ChangesReader, ReaderBase, Sleep
from spectron_migrate.mem0.repeated_pages import RepeatedPages
from spectron_migrate.mem0.seen_ids import SeenIds, count_different
from spectron_migrate.mem0.stores.history import HistoryFile
from spectron_migrate.records import Memory, Skipped, SourceInfo, counted

UNREADABLE = "a payload that is not a JSON object"
_MOST_LISTINGS = 20
"""The most listings of keys while an application keeps adding rows."""

_MOST_DISAGREEMENTS = 3
"""After this many listings that are shorter than the store's count, the difference is reported."""

_WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses while waiting for a count that follows the rows with a delay."""

_FETCHED = 500
_MOST_TRIES = 6

_KEY = attrgetter("key")

Answer = TypeVar("Answer")


class Row(NamedTuple):
    """One row of a store."""

    key: str
    """The store's own key of the row; unique in the store."""
    id: Any
    """The id of the memory."""
    payload: Any
    """Mem0's payload, as an object or as its JSON; None in a listing of keys."""


class ListedStore:
    """The questions that a store has to answer.

    No method may change anything in the store. Any method may raise an error of the store's driver that `explained`
    knows, or one of ours.
    """

    kind = "collection"
    """What the store calls a set of memories, for messages."""
    rereads = True
    """False if the store may hold one memory under several keys, so that an id that comes twice means two copies."""
    counts: Literal["exact", "late", "never"] = "exact"
    """Whether `count` is exact, follows changes with a delay, or does not exist."""

    def __init__(self, name: str, where: str) -> None:
        """`name`: the collection, table or index with the memories; `where`: "at ADDRESS", without credentials."""
        self.name = name
        self.where = where
        self.held: int | None = None
        """After `pages` has begun to read a snapshot: how many rows it holds. None if there is no snapshot."""
        self.notes: list[str] = []
        """What the user should know about the last reading."""

    def exists(self) -> bool:
        """Whether the store has this collection."""
        raise NotImplementedError

    def names(self) -> Sequence[str] | None:
        """Collections that the store has; None if the key may not list them."""
        raise NotImplementedError

    def count(self) -> int | None:
        """Number of rows according to the store itself; None if it cannot say."""
        return None

    def pages(self, *, payload: bool) -> Iterator[Sequence[Row]]:
        """Pages with every row that exists all the time, at least once; without `payload`, only the keys.

        If it reads a snapshot, it sets `held` before the first page.
        """
        raise NotImplementedError

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        """The rows with these keys that still exist. Only called for a store without a snapshot."""
        raise NotImplementedError

    def changes(self, history: HistoryFile | None) -> ChangesReader | None:
        """After `pages` has ended: a reader of later changes, which takes `history` over; None if there is none."""
        return None

    def may_write(self) -> bool | None:
        """Whether this key could change the collection, which no export needs; None if the store does not say."""
        return None

    def explained(self, error: Exception) -> MigrateError | None:
        """One of our errors for an error of the driver; None for any other error."""
        return None

    def close(self) -> None:
        """Close the connection. May be called twice."""


class ListedReader(ReaderBase):
    """Reads one collection of a store."""

    def __init__(self, store: ListedStore, info: SourceInfo, *, now: datetime, sleep: Sleep | None = None) -> None:
        """Find the collection; raises InputError, listing those that exist, if there is no such collection.

        `sleep` waits for a count that follows the rows with a delay.
        """
        super().__init__()
        self.info = info
        self.store = store
        self.rereads = store.rereads
        self._now = now
        self._sleep = sleep or time.sleep
        self._missing: int | None = None
        self._seen = SeenIds()
        try:
            self._check_exists()
        except BaseException:
            self.close()
            raise

    def native_count(self) -> int | None:
        """Number of rows according to the store."""
        with self._explaining():
            return self.store.count()

    def may_write(self) -> bool | None:
        """Whether the key could change the collection; None if the store does not say."""
        try:
            with self._explaining():
                return self.store.may_write()
        except MigrateError:  # asking for rights may need a right of its own
            return None

    def rows(self) -> Iterator[Memory | Skipped]:
        """Every row, then those that were added during the scan."""
        self._missing, self.unproven = None, ""
        self._seen.clear()
        self.store.notes.clear()
        of_snapshot = array("q")
        for page in self._pages(payload=True):
            if self.store.held is None:
                self._seen.add([row.key for row in page])
            else:  # keys are not looked up later, so hashes are enough to count them
                of_snapshot.extend(hash(row.key) for row in page)
            yield from self._converted(page)
        if self.store.held is None:
            yield from self._late_rows()
        else:
            self._missing = max(0, self.store.held - count_different(of_snapshot))
        self.notes = list(self.store.notes)

    def missing(self) -> int | None:
        """How many rows the store counts and does not list; None before `rows` has ended."""
        return self._missing

    def changes(self) -> ChangesReader | None:
        """A reader of changes, if the store can tell them."""
        history = self.history
        if self._missing or (history is not None and not isinstance(history, HistoryFile)):
            return None
        found = self.store.changes(history)
        if found is not None:
            self.history = None
        return found

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self.store.close()
        self._seen.close()

    def _late_rows(self) -> Iterator[Memory | Skipped]:
        """List keys until none is new and the store's count agrees; yields the rows whose keys are new."""
        disagreed = 0
        for number in range(1, _MOST_LISTINGS + 1):
            before = self.native_count()
            late = 0
            listed = SeenIds()
            try:
                for page in self._pages(payload=False):
                    keys = [row.key for row in page]
                    listed.add(keys)
                    fresh = self._seen.not_seen(keys)
                    late += len(fresh)
                    yield from self._fetched(fresh)
                if not late or number == _MOST_LISTINGS:
                    if self._agrees(listed, before):
                        return
                    disagreed += 1
            finally:
                listed.close()
            if disagreed == _MOST_DISAGREEMENTS:
                return

    def _agrees(self, listed: SeenIds, before: int | None) -> bool:
        """Whether the store confirms that its last listing was whole; sets `missing` and `unproven`."""
        number = listed.count()
        self._missing, self.unproven = 0, ""
        if self.store.counts == "never":
            hidden = self._listed_once(listed)
            if hidden:
                self.unproven = (
                    f"two listings of the {self.store.kind} differ in {counted(hidden, 'row')}, which are both there"
                )
            return not hidden
        if self.store.counts == "exact":
            after = self.native_count()
            least = min((count for count in (before, after) if count is not None), default=0)
            self._missing = max(0, least - number)
            return not self._missing
        return self._agrees_in_time(number)

    def _agrees_in_time(self, number: int) -> bool:
        count = self.native_count()
        for wait_s in _WAITS_S:
            if count == number:
                return True
            self._sleep(wait_s)
            count = self.native_count()
        if count == number:
            return True
        if not number and count:
            self._missing = count
        else:
            counting = "does not say how many it holds" if count is None else f"counts {count:,}, which may be late"
            self.unproven = f"the {self.store.kind} lists {counted(number, 'row')} and {counting}; run it again later"
        return False

    def _listed_once(self, listed: SeenIds) -> int:
        """How many rows of the first listing are missing from the last one although they still exist."""
        if listed.count() >= self._seen.count():
            return 0
        hidden = 0
        keys = self._seen.ids()
        while part := list(islice(keys, _FETCHED)):
            gone = listed.not_seen(part)
            if gone:
                with self._explaining():
                    hidden += sum(1 for _ in self.store.fetch(gone))
        return hidden

    def _fetched(self, keys: Sequence[str]) -> Iterator[Memory | Skipped]:
        for begin in range(0, len(keys), _FETCHED):
            part = keys[begin : begin + _FETCHED]
            with self._explaining():
                found = list(self.store.fetch(part))
            self._seen.add(part)  # a row that is not found has been deleted again
            yield from self._converted(found)

    def _pages(self, *, payload: bool) -> Iterator[Sequence[Row]]:
        self.store.held = None
        repeated = RepeatedPages(f"the {self.store.kind} {self.store.name} {self.store.where}")
        with closing(self.store.pages(payload=payload)) as pages:  # type: ignore[type-var]
            while True:
                with self._explaining():
                    page = next(pages, None)
                if page is None:
                    return
                repeated.note(page, _KEY)
                yield page

    def _converted(self, page: Iterable[Row]) -> Iterator[Memory | Skipped]:
        for row in page:
            payload = row.payload
            if isinstance(payload, str | bytes):
                try:
                    payload = loads(payload)
                except (ValueError, RecursionError):
                    yield Skipped(str(row.id), UNREADABLE, has_content=True)
                    continue
            yield from_payload(row.id, payload if isinstance(payload, dict) else {}, now=self._now)

    def _check_exists(self) -> None:
        with self._explaining():
            if self.store.exists():
                return
            names = self.store.names()
        listed = "" if names is None else f"{self.store.kind}s there: {', '.join(sorted(names)) or 'none at all'}"
        raise InputError(
            f"there is no {self.store.kind} {self.store.name} {self.store.where}",
            hint=listed or f"check the name; this key may not list the {self.store.kind}s that there are",
        )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Convert the driver's errors to ours."""
        try:
            yield
        except MigrateError:
            raise
        except Exception as error:
            ours = self.store.explained(error)
            if ours is None:
                raise
            raise ours from error


def retried(
    ask: Callable[[], Answer],
    transient: tuple[type[Exception], ...],
    sleep: Sleep,
    final: type[Exception] | tuple[()] = (),
) -> Answer:
    """The result of `ask`.

    It is called again, with growing waits, as long as it raises one of `transient` that is not `final`.
    """
    tries = 0
    while True:
        try:
            return ask()
        except transient as error:
            tries += 1
            if tries == _MOST_TRIES or isinstance(error, final):
                raise
        sleep(backoff_s(tries, first_s=0.25, longest_s=15.0))


def missing_driver(package: str, extra: str) -> InputError:
    """The error for a store whose driver cannot be imported."""
    return InputError(
        f"reading this store needs {package}, which is not installed", hint=f"pip install 'spectron-migrate[{extra}]'"
    )


def object_of(answer: Any, who: str) -> dict[str, Any]:
    """An answer that is a JSON object; raises Incomplete for anything else, which another server must have sent."""
    if not isinstance(answer, dict):
        raise Incomplete(f"{who} gave an answer that is not from such a store", hint="is it the right address?")
    return answer
