"""Draining the outbox: captured results are planned in the migration's ledger and delivered as in a replay.

Only rounds drain (`replay --follow`, and the steps of a cutover), under the lock that all rounds hold, so that the
ledger has one writer. If a drain is killed, the next one repeats it. A result leaves the outbox only once the ledger
has it, and a result that the ledger already has is recognized by memory and text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.delivery.preflight import check_server
from spectron_migrate.delivery.run import Run
from spectron_migrate.errors import InputError
from spectron_migrate.ledger import Ledger, batches, messages, plan, runs
from spectron_migrate.ledger.merge import Merge
from spectron_migrate.ledger.read import cutover, memories
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.mapping import ScopeMapping, Unmapped
from spectron_migrate.migration.captured import CapturedMessages, memory_of
from spectron_migrate.migration.caught_up import owners_behind
from spectron_migrate.migration.deliver import Limits, begin_run, deliver_plan
from spectron_migrate.records import format_time
from spectron_migrate.reporter import NullReporter, Reporter
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.state.call_log import ANYBODY, CallSubject
from spectron_migrate.state.journal import CaughtUp, publish_routing, read_journal
from spectron_migrate.state.outbox import CapturedResult, Outbox
from spectron_migrate.state.store import StateStore

MOST_CALLS = 500
"""The most calls whose results are planned in one transaction."""
LANES = 8
HOLD_S = 2.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain did."""

    taken: int
    """Results that were moved to the ledger."""
    written: int
    left: Undecided
    """Facts of the migration that are still undecided."""
    unknown: int
    """Calls whose results only a complete reading of Mem0 can show."""
    as_of: str
    """What was captured before this moment is in Spectron, except for users in `behind`."""
    behind: frozenset[str] | None
    """Ids whose changes are not all in Spectron; None for everybody."""


class Drainer:
    """Drains the outbox of one state directory."""

    def __init__(
        self,
        state: Path | StateStore,
        mapping: ScopeMapping,
        outbox: Outbox,
        *,
        max_lag_s: float,
        hold_s: float = HOLD_S,
        into_existing: bool = False,
        marker: RunMarker | None = None,
        reporter: Reporter | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`hold_s`: a drain ends after this many seconds without a decision, so that a waiting lane holds up no other.

        `marker`: that of the rounds between which it drains. `clock` in seconds, monotonic; `now` with its zone.
        """
        self._state = state
        self._mapping = mapping
        self._outbox = outbox
        self._max_lag_s = max_lag_s
        self._reporter = reporter or NullReporter()
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._deferred = DeferredWork(hold_s, max_in_flight=4 * LANES)
        self._into_existing = into_existing
        self._marker = marker or RunMarker(sleep=sleep)
        self._run: Run | None = None

    def waits(self) -> bool:
        """Whether anything was captured since the last drain."""
        return self._outbox.waits()

    def interrupt(self) -> None:
        """Finish what is in flight, begin nothing more."""
        if self._run is not None:
            self._run.halt("signal", "interrupted")

    def close(self) -> None:
        """Close the outbox."""
        self._outbox.close()

    async def drain(self, api: SpectronApi) -> Drained | None:
        """Deliver what waits, and publish who is caught up; hold `round_lock` meanwhile.

        None while the base of the cutover is not planned. Raises LedgerLocked while another process writes the ledger,
        InputError if the migration was planned with another mapping, and what delivery raises.
        """
        state = read_journal(self._state).state
        if not state.is_under_way or state.catch_up != "outbox" or state.fence is None:
            return None
        if not Ledger.exists(self._state):
            return None
        with Ledger.open_for_writing(self._state, create=False) as ledger:
            base = plan.base_plan(ledger, state.fence)
            if base is None:
                return None
            self._check_mapping(ledger)
            return await self._drain_into(ledger, api, base, fence=state.fence)

    async def _drain_into(self, ledger: Ledger, api: SpectronApi, base: tuple[int, str], *, fence: str) -> Drained:
        number, scanned = base
        with ledger.transaction():
            if messages.take_refused_apart(ledger.db, number):
                plan.mark_late(ledger, number)
        self._outbox.settle(scanned)
        now = self._now()
        batch = self._outbox.batch(MOST_CALLS, now)
        fresh = [result for result in batch.results if result.completed > fence]  # older ones are in the base
        unmapped = self._plan(ledger, number, fresh) if fresh else frozenset()
        self._outbox.delivered(batch, CallSubject(tuple(unmapped)) if unmapped else None)
        written = await self._deliver(ledger, api, number)
        unknown = self._outbox.unknown()
        if self._outbox.missed_at >= scanned:  # a write of which nothing could be noted
            unknown.append(ANYBODY)
        behind = self._behind(ledger, [*unknown, *batch.running]) if batch.is_whole else None
        as_of = format_time(batch.as_of)
        caught_up = CaughtUp(as_of, now.timestamp() + self._max_lag_s, behind)
        publish_routing(self._state, caught_up, now=format_time(self._now()))
        left = cutover.count_undecided(ledger)
        return Drained(len(batch.results), written, left, len(unknown), as_of, behind)

    def _check_mapping(self, ledger: Ledger) -> None:
        migration = ledger.migration()
        if migration is None or migration.mapping_digest != self._mapping.digest:
            raise InputError(
                "the migration was planned with another mapping, so that nothing is drained with this one",
                hint="follow with the same mapping.yaml",
            )

    def _plan(self, ledger: Ledger, number: int, results: Sequence[CapturedResult]) -> frozenset[str]:
        """Merge the results in their order; returns the owners of those that no rule maps."""
        migration = ledger.migration()
        assert migration is not None  # noqa: S101 - there is a plan
        scan = plan.ScanRow(
            f"{plan.LIVE} {results[0].completed}", plan.LIVE, results[0].completed, results[-1].completed, None, ""
        )
        unknown: set[str] = set()
        with ledger.transaction():
            plan.keep_scan(ledger, scan)
            now = format_time(self._now())
            merge = Merge(ledger, number, scan, migration=migration.id, same_mapping=True, now=now)
            captured = CapturedMessages(ledger, self._mapping, merge, results)
            for result in results:
                if result.event == "MESSAGE":
                    captured.take(result)
                else:
                    unknown |= self._merge(ledger, merge, result, captured.of(result))
            plan.mark_late(ledger, number)
        return frozenset(unknown)

    def _merge(self, ledger: Ledger, merge: Merge, result: CapturedResult, message: str | None) -> set[str]:
        if result.event == "DELETE":
            merge.tombstone(result.mem0_id, result.completed)
            return set()
        known = memories.memory_of(ledger, result.mem0_id)
        if known is not None and memories.was_read_after(ledger, result.mem0_id, result.completed):
            return set()  # the ledger has the text from a reading of Mem0 that began later
        memory = memory_of(result, known)
        if memory is None:
            return set()
        placement = self._mapping.map_memory(memory)
        if isinstance(placement, Unmapped):
            return set(memory.entity_ids.values())
        # An earlier result of the same batch may have deleted it.
        merge.add(memory, placement, seen_again=result.completed, message=message)
        return set()

    async def _deliver(self, ledger: Ledger, api: SpectronApi, number: int) -> int:
        left = cutover.count_undecided(ledger).total
        if not left:
            return 0
        me = await check_server(
            ledger,
            api,
            self._mapping,
            plan=number,
            marker=self._marker,
            into_existing=self._into_existing,
            now=format_time(self._now()),
            warn=NullReporter().warn,
        )
        self._deferred.begin_run()
        run = begin_run(
            ledger,
            number,
            api,
            self._mapping,
            principal=me.principal,
            limits=Limits(max_in_flight=LANES, known=runs.known_in_flight(ledger)),
            # A batch carries neither category nor time, so texts with extraction are sent one by one.
            batches=self._mapping.write == "batch" and not batches.count_full(ledger, number),
            deferred=self._deferred,
            own=self._marker.own_work(ledger, format_time(self._now())),
            reporter=self._reporter,
            clock=self._clock,
            now=self._now,
            sleep=self._sleep,
        )
        self._run = run
        self._reporter.stage("drain", left, gauges=run.gauges)
        try:
            await deliver_plan(run)
        finally:
            self._run = None
        return run.counters.written

    def _behind(self, ledger: Ledger, calls: Sequence[CallSubject]) -> frozenset[str] | None:
        """Ids whose changes are not all in Spectron; None for everybody.

        `calls`: unknown and running calls. The owner of a running call stays behind: if its process dies, only the next
        drain notices that the call may have written something.
        """
        refused = cutover.refused_memories(ledger)
        owners = owners_behind(ledger, read_journal(self._state).state, refused)
        if owners is None or any(not call.owners and call.memory is None for call in calls):
            return None
        return frozenset(owners).union(*(call.owners or _owners_of(ledger, call.memory) for call in calls))


def _owners_of(ledger: Ledger, mem0_id: str | None) -> set[str]:
    """The owners of a memory.

    None are returned for a memory that the ledger does not know, because Spectron has no old text of it.
    """
    known = memories.memory_of(ledger, mem0_id) if mem0_id is not None else None
    return set(known.entity_ids.values()) if known is not None else set()
