"""The log of calls in Postgres, which the processes of all hosts write. The interface is `CallLines` in `call_log`.

A line is a row. One statement takes a lock, takes the next position, and commits. So no line is ever missing below a
visible one, and the lock is not held across the network. A call can go on only once its line is there, so an append is
waited for no longer than `BUDGET_S`. The statement itself checks, by the server's clock, that this time has not passed.
So a line that was given up cannot appear after lines of later calls.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.state.call_log import BUDGET_S
from spectron_migrate.state.postgres_connection import PostgresConnection
from spectron_migrate.state.unreachable import StateUnreachable

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

AWAY_S = 1.0
"""If an answer did not come in time, nobody waits for this long."""
KEPT_S = 300.0
"""The least time for which a line is kept, so that every reader has seen it."""
MOST_LINES = 1_000
"""The most lines that are read at once."""
_LOCK = "call_line"
_APPEND = (
    "INSERT INTO call_line(key, line) SELECT CAST(? AS TEXT), CAST(? AS TEXT) FROM pg_advisory_xact_lock(?)"
    " WHERE extract(epoch FROM clock_timestamp()) < ? ON CONFLICT (key) DO NOTHING"
)
_NEVER = 1e12
_T = TypeVar("_T")


@dataclass
class _Task(Generic[_T]):
    ask: Callable[[], _T]
    done: threading.Event = field(default_factory=threading.Event)
    answer: _T | None = None
    error: BaseException | None = None
    is_given_up: bool = False


class BoundedThread:
    """Runs calls one after the other in a thread, so that nobody waits longer than the budget of a call."""

    def __init__(self) -> None:
        """The first call starts the thread."""
        self._tasks: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._away_until = float("-inf")
        self._is_closed = False

    @property
    def is_away(self) -> bool:
        """Whether calls currently fail at once."""
        return time.monotonic() < self._away_until

    def run(self, ask: Callable[[], _T], budget_s: float) -> _T:
        """The result of `ask`. Raises StateUnreachable after the budget; `ask` may then still be at work.

        If an answer did not come, calls fail at once for a while, whatever their budget. After `close` they always do.
        """
        if self.is_away:
            raise StateUnreachable("the database of the state did not answer in time a moment ago")
        task = _Task(ask)
        with self._lock:
            if self._is_closed:
                raise StateUnreachable("the connection to the database of the state is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="spectron-state", daemon=True)
                self._thread.start()
            self._tasks.put(task)
        if not task.done.wait(budget_s):
            task.is_given_up = True
            self._away_until = time.monotonic() + AWAY_S
            raise StateUnreachable(f"the database of the state did not answer within {budget_s * 1000:.0f} ms")
        if task.error is not None:
            if isinstance(task.error, OSError):
                self._away_until = time.monotonic() + AWAY_S
            raise task.error
        return task.answer  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread once it has finished its current call. May be called twice."""
        with self._lock:
            self._is_closed = True
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.is_given_up:
                try:
                    task.answer = task.ask()
                except BaseException as error:
                    task.error = error
                task.done.set()


class PostgresCallLog:
    """The log in a table. Safe to use from several threads."""

    def __init__(self, location: PostgresLocation, *, budget_s: float = BUDGET_S) -> None:
        """`budget_s`: how long each method may take; if it takes longer, it raises StateUnreachable."""
        self._location = location
        self._budget_s = budget_s
        self._begin()

    def _begin(self) -> None:
        self._state = PostgresConnection(self._location, timeout_s=2.0)
        self._thread = BoundedThread()
        self._clock: tuple[PostgresDatabase, float, float] | None = None

    def connect(self, patience_s: float) -> None:
        """Connect, which takes longer than a call may wait."""
        self._thread.run(lambda: self._state.ask(lambda db: self._server_time(db, 0.0)), patience_s)

    def append(self, line: str) -> None:
        """Append a line. After an error it may still be there, but before every line of a later call."""
        give_up_at = time.monotonic() + self._budget_s
        key = secrets.token_hex(12)
        values = (key, line, lock_key(self._location.schema, _LOCK))

        def insert(db: PostgresDatabase) -> bool:
            if db.execute(_APPEND, (*values, self._server_time(db, give_up_at))).rowcount == 1:
                return True
            # Either it took too long, or the line is there and the connection was lost before it could say so.
            return db.execute("SELECT 1 FROM call_line WHERE key = ?", (key,)).fetchone() is not None

        if not self._thread.run(lambda: self._state.again(insert), self._budget_s):
            raise StateUnreachable("the database of the state did not answer in time")

    def _server_time(self, db: PostgresDatabase, moment: float) -> float:
        """The time on the server's clock at a moment of our clock, or slightly earlier."""
        if self._clock is None or self._clock[0] is not db:
            row = db.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            self._clock = (db, float(row[0]), time.monotonic())
        _, theirs, ours = self._clock
        return theirs + moment - ours

    @property
    def size(self) -> int:
        """The position after the last line."""
        return self._position("SELECT coalesce(max(position), 0) + 1 FROM call_line")

    @property
    def name(self) -> str:
        """The name is constant, because positions are never given twice in a schema."""
        return self._location.schema

    def lines_from(self, start: int) -> list[tuple[bytes, int]]:
        """Lines from this position on, each with the next position."""
        statement = "SELECT position, line FROM call_line WHERE position >= ? ORDER BY position LIMIT ?"
        rows: list[Any] = self._look(lambda db: db.execute(statement, (start, MOST_LINES)).fetchall(), [])
        return [(row["line"].encode(), row["position"] + 1) for row in rows]

    def first_line(self) -> int:
        """The position of the first row."""
        return self._position("SELECT coalesce(min(position), 1) FROM call_line")

    def sync(self) -> None:
        """Does nothing, because every row is durable."""

    def release(self, end: int) -> None:
        """Remove rows before this position that are old enough."""
        statement = "DELETE FROM call_line WHERE position < ? AND at < now() - make_interval(secs => ?)"
        with suppress(StateUnreachable):  # if it fails, the next drain removes them
            self._look(lambda db: db.execute(statement, (end, KEPT_S)).rowcount, 0)

    def close(self) -> None:
        """End the connection and the thread; may be called twice."""
        self._thread.close()
        self._state.close()

    def forget_after_fork(self) -> None:
        """In a child process: thread and connection are the parent's."""
        self._begin()

    def _look(self, ask: Callable[[PostgresDatabase], _T], nothing: _T) -> _T:
        return self._thread.run(lambda: self._state.look(ask, nothing), self._budget_s)

    def _position(self, statement: str) -> int:
        row: Any = self._look(lambda db: db.execute(statement).fetchone(), (1,))
        return int(row[0])
