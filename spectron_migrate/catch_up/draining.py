"""Draining the outbox: what the adapters captured is planned in the migration's ledger and delivered as replay does.

One drainer exists at a time, in whichever process: it holds the outbox's lock, and the turn that rounds of reading
Mem0 take, so that the ledger has one writer. Killed at any moment, the next one goes on: a row leaves the outbox only
when the ledger has it, and what the ledger has already it finds again by memory and text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.catch_up.rounds import owners_behind, turn
from spectron_migrate.delivery.engine import deliver
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.preflight import check
from spectron_migrate.delivery.run import Brake, Run
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger, cutover_views, plan, views
from spectron_migrate.ledger.shards import refuse_outbox
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.mapping import ScopeMapping, Unmapped
from spectron_migrate.records import Memory, NullReporter, format_time, parse_time
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.state import processes
from spectron_migrate.state.journal import CaughtUp, publish, read_journal
from spectron_migrate.state.outbox import Batch, Outbox, Row
from spectron_migrate.state.running import About, left_by_the_dead
from spectron_migrate.state.written import Written

MOST_CALLS = 500
"""Calls whose results are planned in one transaction."""
LANES = 8


@dataclass(frozen=True, slots=True)
class Drained:
    """What one draining did."""

    taken: int
    """Rows that the ledger has now."""
    written: int
    left: int
    """Facts of the migration that are not decided."""
    behind: frozenset[str] | None
    """Ids whose changes are not all in Spectron; None for everybody."""


class Drainer:
    """Drains one state directory's outbox; hold the outbox's lock meanwhile."""

    def __init__(
        self,
        state: Path,
        mapping: ScopeMapping,
        outbox: Outbox,
        *,
        max_lag_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`clock` in seconds, monotonic; `now` with its zone."""
        self._state = state
        self._mapping = mapping
        self._outbox = outbox
        self._max_lag_s = max_lag_s
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._written = Written(state / processes.FOLDER)

    async def drain(self, api: SpectronApi) -> Drained | None:
        """Deliver what waits, and say who is caught up; None while the base of the cutover is not planned.

        Raises LedgerLocked while somebody else writes the ledger, InputError where the migration is in shards or
        was planned with another mapping, and what delivery raises.
        """
        async with turn(self._state, sleep=self._sleep, patience_s=0.0):
            state = read_journal(self._state).state
            if not state.under_way or state.catch_up != "outbox" or state.fence is None:
                return None
            refuse_outbox(self._state)
            if not (self._state / "ledger.db").exists():
                return None
            with Ledger.open_for_writing(self._state, create=False) as ledger:
                base = _base(ledger, state.fence)
                if base is None:
                    return None
                number, scanned = base
                self._check_mapping(ledger)
                self._outbox.settle(scanned)
                self._written.was_read(parse_time(scanned))
                now = self._now()
                self._bury(now)
                began = self._written.draining(now)
                batch = self._outbox.batch(MOST_CALLS)
                fresh = [row for row in batch.rows if row.completed > state.fence]  # older ones the base has read
                unknown = self._plan(ledger, number, fresh) if fresh else frozenset()
                about = [About(tuple(unknown))] * bool(unknown) + [About(())] * batch.torn
                if about:
                    self._outbox.leave_unknown(about, self._now())
                self._outbox.delivered(batch)
                written = await self._deliver(ledger, api, number)
                caught_up = CaughtUp(format_time(began), now.timestamp() + self._max_lag_s, self._behind(ledger, batch))
                publish(self._state, caught_up, now=format_time(self._now()))
                left = cutover_views.left([ledger]).total
                return Drained(len(batch.rows), written, left, caught_up.behind)

    def _check_mapping(self, ledger: Ledger) -> None:
        migration = ledger.migration()
        if migration is None or migration.mapping_digest != self._mapping.digest:
            raise InputError(
                "the mapping is not the one that the migration was planned with, so that nothing is drained with it",
                hint="give the application the same mapping.yaml",
            )

    def _bury(self, now: datetime) -> None:
        """What processes were doing that are dead by now is unknown."""
        for path, calls in left_by_the_dead(self._state):
            self._outbox.leave_unknown(calls, now)
            path.unlink()

    def _plan(self, ledger: Ledger, number: int, rows: Sequence[Row]) -> frozenset[str]:
        """Merge the rows in their order; ids of owners of rows that say too little, for reconciling to find."""
        migration = ledger.migration()
        assert migration is not None  # noqa: S101 - there is a plan
        scan = plan.ScanRow(
            f"{plan.LIVE} {rows[0].completed}", plan.LIVE, rows[0].completed, rows[-1].completed, None, ""
        )
        unknown: set[str] = set()
        with ledger.transaction():
            plan.keep_scan(ledger, scan)
            now = format_time(self._now())
            merge = plan.Merge(ledger, number, scan, migration=migration.id, same_mapping=True, now=now)
            for row in rows:
                unknown |= self._merge(ledger, merge, row)
            plan.mark_late(ledger, number)
        return frozenset(unknown)

    def _merge(self, ledger: Ledger, merge: plan.Merge, row: Row) -> set[str]:
        if row.event == "DELETE":
            merge.tombstone(row.mem0_id, row.completed)
            return set()
        known = views.memory_of(ledger, row.mem0_id)
        if known is not None and _was_read_since(ledger, row):
            return set()  # a reading of Mem0 that began later gave what the ledger has
        memory = _memory(row, known)
        if memory is None:
            return set()
        placed = self._mapping.place(memory)
        if isinstance(placed, Unmapped):
            return set(memory.entity_ids.values())
        merge.add(memory, placed, seen_again=row.completed)  # a row of the same batch may have deleted it before
        return set()

    async def _deliver(self, ledger: Ledger, api: SpectronApi, number: int) -> int:
        if not cutover_views.left([ledger]).total:
            return 0
        me = await check(ledger, api, plan=number, into_existing=False, now=format_time(self._now()))
        brake = Brake(self._sleep, clock=self._clock)
        run = Run(
            ledger=ledger,
            writer=GroupCommit(ledger),
            api=api,
            limiter=Limiter(max_in_flight=LANES, clock=self._clock, sleep=brake.sleep),
            reporter=NullReporter(),
            principal=me.principal,
            brake=brake,
            session_size=self._mapping.session_size,
            plan=number,
            clock=self._clock,
            now=lambda: format_time(self._now()),
        )
        try:
            await deliver(run, lanes_at_once=LANES)
        finally:
            await run.writer.close()
        if run.failure is not None:
            raise run.failure
        return run.counters.written

    def _behind(self, ledger: Ledger, batch: Batch) -> frozenset[str] | None:
        """Ids of whom Spectron does not know everything; None for everybody."""
        if batch.calls == MOST_CALLS:
            return None
        refused = cutover_views.refused([ledger])
        owners = owners_behind([ledger], read_journal(self._state).state, refused)
        unknown = self._outbox.unknown()
        if owners is None or any(not call.owners and call.memory is None for call in unknown):
            return None
        return frozenset(owners).union(*(call.owners or _owners_of(ledger, call.memory) for call in unknown))


def _owners_of(ledger: Ledger, mem0_id: str | None) -> set[str]:
    """Whose a memory is; nobody's where the ledger never heard of it: then nothing of it is in Spectron to be old."""
    known = views.memory_of(ledger, mem0_id) if mem0_id is not None else None
    return set(known.entity_ids.values()) if known is not None else set()


def _base(ledger: Ledger, fence: str) -> tuple[int, str] | None:
    """The newest plan, and when the reading behind it began, once one was made of a reading after the fence."""
    row = ledger.db.execute(
        "SELECT (SELECT max(id) FROM plan WHERE complete = 1) AS number, max(scan.began) AS began FROM scan"
        " WHERE complete = 1 AND kind != ? AND began > ?",
        (plan.LIVE, fence),
    ).fetchone()
    return None if row["number"] is None or row["began"] is None else (int(row["number"]), str(row["began"]))


def _was_read_since(ledger: Ledger, row: Row) -> bool:
    """Whether the last text of the memory came from a reading of Mem0 that began after the row was complete."""
    found = ledger.db.execute(
        "SELECT scan.began FROM fact JOIN scan ON scan.id = fact.scan WHERE fact.mem0_id = ? AND scan.kind != ?"
        " AND fact.version = (SELECT max(version) FROM fact AS other WHERE other.mem0_id = fact.mem0_id)",
        (row.mem0_id, plan.LIVE),
    ).fetchone()
    return found is not None and found["began"] is not None and row.completed < found["began"]


def _memory(row: Row, known: Memory | None) -> Memory | None:
    """The memory as the call left it; None for a change of one that nobody has heard of."""
    told = {**known.to_json(), **row.record} if known is not None else row.record
    if row.text is None or (row.event == "UPDATE" and known is None):
        return None
    created = known.created_at if known is not None else row.completed
    times = {
        "created_at": created,
        "updated_at": row.completed,
        "text_at": row.completed,
        "text_at_source": "updated_at",
    }
    kept = {name: value for name, value in told.items() if name in Memory.__slots__}
    return Memory.from_json({**kept, "id": row.mem0_id, "memory": row.text, "hash": None, **times})
