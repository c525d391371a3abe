"""Several processes that deliver one plan together, from a ledger in Postgres (docs/protocol.md, Workers).

The first one plans alone; then it lets others join. Each lane belongs to the process whose connection holds its lock,
so the lanes of a dead process are free at once. The limits of a run are counted here, for all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from spectron_migrate.clocks import seconds_with_sleep
from spectron_migrate.database import session_locks, tables
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.ledger.shared import WRITER, holder_of
from spectron_migrate.records import Json, canonical_json

if TYPE_CHECKING:
    from spectron_migrate.database.postgres import PostgresDatabase

FRESH_S = 5.0
"""A request may begin for this long after Postgres last served the connection that holds the lane."""
SETTLE_S = FRESH_S + 1.0
"""A process that takes a lane waits this long before an intent in it may count as never sent.

By then no other process can begin a request there.
"""
_PLANNER = "planner"
_PART, _FORMAT = "workers", 1
_DDL = """
CREATE TABLE work(              -- one row: what the processes that deliver now have agreed on
  id INTEGER PRIMARY KEY CHECK (id = 1),
  terms TEXT NOT NULL,          -- the plan and the options that all of them have, JSON
  sends INTEGER, tokens INTEGER,  -- what may still be sent and spent; NULL for no limit
  next_request INTEGER NOT NULL DEFAULT 0  -- when the next request may begin, in microseconds by the clock of Postgres
);
"""
_NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


class Workers:
    """This process as one of those that deliver from one ledger. It uses the connection that writes the ledger."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.is_alone = False
        """Whether no other process may write the ledger, so that this one may plan."""
        self.joined = True
        """Whether this process joined others, rather than letting others join it."""
        self._held: set[str] = set()
        self._freed: set[str] = set()
        """Lanes of `_held` to free after the commit. A set, because a transaction may be run again."""

    # -- joining ------------------------------------------------------------------------------------------

    def try_join(self) -> bool:
        """Become the only writer, or join those at work; False while another process plans.

        Raises LedgerLocked if another command writes the ledger. Other processes wait until `let_others_join`.
        """
        database = self._database
        if not session_locks.try_lock(database, _PLANNER):
            return False
        self.is_alone = session_locks.try_lock(database, WRITER)
        if self.is_alone or session_locks.try_lock(database, WRITER, shared=True):
            return True
        session_locks.unlock(database, _PLANNER)
        raise LedgerLocked(
            f"the ledger in {database.location} is being written by {holder_of(database, WRITER)}",
            hint="wait for it, or stop it; it is safe to stop at any moment",
        )

    def planner(self) -> str:
        """The process that plans now."""
        return holder_of(self._database, _PLANNER)

    def let_others_join(self) -> None:
        """Let others deliver too. From now on nobody may plan."""
        if self.is_alone:
            session_locks.try_lock(self._database, WRITER, shared=True)  # a connection's own locks never conflict
            session_locks.unlock(self._database, WRITER)
            self.is_alone = self.joined = False
        session_locks.unlock(self._database, _PLANNER)

    # -- what all agree on --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the table of the terms if it is not there."""
        tables.make_tables(self._database, _PART, _DDL, _FORMAT)

    def set_terms(self, terms: Mapping[str, Json], *, sends: int | None, tokens: int | None) -> None:
        """Record the terms of a run that begins now, and what it may send and spend."""
        self._database.execute(
            "INSERT INTO work(id, terms, sends, tokens) VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " terms = excluded.terms, sends = excluded.sends, tokens = excluded.tokens, next_request = 0",
            (canonical_json(dict(terms)), sends, tokens),
        )

    def check_terms(self, terms: Mapping[str, Json]) -> None:
        """Raises InputError if this process was called with other options than those at work."""
        row = self._database.execute("SELECT terms FROM work WHERE id = 1").fetchone()
        if row is None or row["terms"] != canonical_json(dict(terms)):
            raise InputError(
                f"other processes deliver from {self._database.location}, and they were called with other options",
                hint="give all of them the same filters, limits and decisions, or wait until the others have ended",
            )

    # -- lanes --------------------------------------------------------------------------------------------

    def ask_for_lane(self, lane: str) -> Callable[[], bool]:
        """Take a lane, if nobody has it.

        The next statement sees what the lane's last owner committed. Call the result to learn whether it was taken; the
        next statement can be sent before that.
        """
        self._freed.discard(lane)
        if lane in self._held:
            return lambda: True
        asked = session_locks.ask_for_lock(self._database, _lane_lock(lane))

        def is_taken() -> bool:
            if asked.fetchone()[0]:
                self._held.add(lane)
            return lane in self._held

        return is_taken

    def free_lane(self, lane: str) -> None:
        """Release the lane to others as soon as this transaction is committed."""
        self._freed.add(lane)

    def after_commit(self) -> None:
        """Free the lanes whose last change is committed. Call outside a transaction."""
        freed, self._freed = self._freed & self._held, set()
        self._held -= freed
        if freed:
            keys = [session_locks.lock_key(self._database.location.schema, _lane_lock(lane)) for lane in freed]
            marks = ", ".join("?" * len(keys))
            self._database.execute(
                f"SELECT pg_advisory_unlock(key) FROM unnest(ARRAY[{marks}]::bigint[]) AS key", keys
            ).fetchall()

    def serialize(self, name: str) -> None:
        """Make other processes wait here, for the same name, until the transaction ends."""
        key = session_locks.lock_key(self._database.location.schema, name)
        self._database.execute("SELECT pg_advisory_xact_lock(?)", (key,))

    # -- whether the locks are still held -----------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether Postgres answered on this connection so recently that nobody else can be sending in its lanes."""
        return not self._database.is_lost and seconds_with_sleep() - self._database.answered_at < FRESH_S

    def ask(self) -> None:
        """Ask Postgres for any answer; raises Unreachable."""
        self._database.execute("SELECT 1").fetchone()

    # -- limits -------------------------------------------------------------------------------------------

    def take_sends(self, wanted: int) -> int:
        """Reserve up to this many of the memories that may still be sent."""
        return self._take("sends", wanted)

    def take_tokens(self, wanted: int) -> int:
        """Reserve up to this many of the tokens that may still be spent."""
        return self._take("tokens", wanted)

    def _take(self, what: str, wanted: int) -> int:
        row = self._database.execute(
            f"UPDATE work SET {what} = work.{what} - taken.n FROM (SELECT least(greatest({what}, 0), ?) AS n"
            " FROM work WHERE id = 1 FOR UPDATE) AS taken WHERE id = 1 RETURNING taken.n",
            (wanted,),
        ).fetchone()
        return int(row[0])

    def give_back(self, *, sends: int = 0, tokens: int = 0) -> None:
        """Return sends and tokens that were reserved and not used."""
        self._database.execute("UPDATE work SET sends = sends + ?, tokens = tokens + ?", (sends, tokens))

    def sends_left(self) -> int:
        """How many more memories may be sent, if there is a limit."""
        row = self._database.execute("SELECT sends FROM work WHERE id = 1").fetchone()
        return int(row["sends"] or 0)

    def take_turns(self, count: int, gap_s: float) -> float:
        """Reserve the next turns for requests, `gap_s` apart among all processes.

        Returns the seconds until the first.
        """
        gap = max(1, round(gap_s * 1_000_000))
        row = self._database.execute(
            f"UPDATE work SET next_request = greatest(next_request, {_NOW}) + ? RETURNING next_request - ? - {_NOW}",
            (count * gap, count * gap),
        ).fetchone()
        return max(0.0, int(row[0]) / 1_000_000)


def _lane_lock(lane: str) -> str:
    return f"lane {lane}"
