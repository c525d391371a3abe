"""Rounds of catching up: drain the outbox, read Mem0, plan what changed and has settled, deliver it.

A round reads all of Mem0, unless a mark of its state says that nothing has changed since the last reading.

After each round `routing.json` says which users may be read from Spectron. `replay --follow` runs rounds, and so do the
steps of a cutover that reconcile. They hold `ledger_access.round_lock`, so that two rounds never overlap.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.dump import Dump, open_dump
from spectron_migrate.errors import ExitCode, NotLegal
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.migration.caught_up import owners_behind
from spectron_migrate.migration.changes import Changes, Settling
from spectron_migrate.migration.compare_beside import BesideComparison
from spectron_migrate.migration.differences import Differences, compare_with_ledger
from spectron_migrate.migration.drain_outbox import Drained, Drainer
from spectron_migrate.migration.reading import Mem0Reading, Reading
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.migration.round_reporter import RoundReporter
from spectron_migrate.migration.round_result import Round
from spectron_migrate.records import Memory, counted, format_time
from spectron_migrate.reporter import NullReporter, Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.journal import publish_routing, read_journal
from spectron_migrate.state.outbox import OtherHost, Outbox
from spectron_migrate.state.routing import MOST_BEHIND
from spectron_migrate.state.store import StateStore


@dataclass(frozen=True, slots=True)
class CatchUpSettings:
    """Which Mem0 a round brings to which state, and the limits of a round."""

    state: Path | StateStore
    dump: Path
    mapping: ScopeMapping
    open_reader: Callable[[datetime], Reader]
    """Opens Mem0 for one reading; the argument is the time at which expiry is judged."""
    state_mark: Callable[[int], str | None] = lambda now_ns: None
    """A mark of Mem0's state, as `mem0.state_mark` makes it; None if it has none. The argument is the wall clock."""
    settle_s: float = 60.0
    """A text younger than this waits, because an older text of its lane may still appear and must be sent first."""
    max_lag_s: float = 60.0
    reconcile_s: float = 600.0
    """How often a follower reads all of Mem0 and compares it with the ledger, memory by memory."""
    hold_s: float = 5.0
    """A round ends after this many seconds without a decision, so that waiting lanes do not hold up the others."""
    max_in_flight: int = 64
    max_rps: float | None = None
    into_existing: bool = False
    accept_expiry: bool = False


def comparison_beside(
    settings: CatchUpSettings,
    before: BesideComparison | None = None,
    *,
    reporter: Reporter | None = None,
    now: Callable[[], datetime],
) -> BesideComparison:
    """A comparison of all of Mem0 with the ledger that the rounds of the process that follows need not wait for.

    `before`: the last one of this process.
    """
    return BesideComparison(
        settings.state,
        settings.open_reader,
        settle_s=settings.settle_s,
        reporter=reporter or NullReporter(),
        now=now,
        first_seen=before.first_seen if before is not None else None,
    )


class Rounds:
    """Runs rounds one after the other, and remembers just enough to make a quiet round cheap."""

    def __init__(
        self,
        settings: CatchUpSettings,
        *,
        reporter: Reporter,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock` in seconds, monotonic; `now` with its zone."""
        self.settings = settings
        self._reporter = RoundReporter(reporter)
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._first_seen: dict[str, str] = {}
        self._planned: str | None = None
        """Digest of the dump that is planned, except for `_unplanned`; None if it is not known what was planned."""
        self._unplanned: dict[str, Memory | None] = {}
        """Memories of that dump that wait, or that a failed round has not planned; None for one that is gone."""
        self._mem0 = Mem0Reading(
            settings.dump, settings.state, settings.open_reader, settings.state_mark, reporter=self._reporter, now=now
        )
        self._replay: Replay | None = None
        self._drainer: Drainer | None = None
        self._deferred = DeferredWork(settings.hold_s, max_in_flight=settings.max_in_flight // 2)
        self._marker = RunMarker(sleep=sleep)

    def interrupt(self, code: ExitCode) -> None:
        """Finish what is in flight, begin nothing more."""
        self._reporter.stopped = code
        if self._drainer is not None:
            self._drainer.interrupt()
        if self._replay is not None:
            self._replay.interrupt(code)

    async def round(self, api: SpectronApi, *, compare: bool = False, supersede: bool = True) -> Round:
        """Run one round and publish who is caught up; hold `round_lock` meanwhile.

        `compare` checks every memory afterwards. `supersede`: False once applications write to Spectron. Raises
        Incomplete if Mem0 could not be read in full, Unreachable, KeyRefused, LedgerLocked, InputError, and Interrupted
        after `interrupt`.
        """
        # Drain first, so that captured messages are planned before the scan finds the memories that Mem0 made of them.
        await self.drain(api)
        done = await self._read_and_deliver(api, compare=compare, supersede=supersede)
        if self.drains_outbox():
            await self.drain(api)  # the drain publishes, because only it knows which calls are running or unknown
        else:
            now = format_time(self._now())
            publish_routing(self.settings.state, done.caught_up(self.settings.max_lag_s), now=now)
        return done

    async def bring_late(self, api: SpectronApi) -> Round:
        """Run one round for what was written to Mem0 after `complete`; hold `round_lock` meanwhile.

        Nothing that it writes supersedes anything. Raises what `round` raises.
        """
        return await self._read_and_deliver(api, compare=False, supersede=False)

    async def compare(self) -> Differences:
        """Read all of Mem0 and compare it with the ledger; nothing is sent. Hold `round_lock` meanwhile.

        Raises Incomplete if Mem0 could not be read in full, Unreachable.
        """
        began = format_time(self._now())
        await self._mem0.read()
        with open_dump(self.settings.dump) as dump, Ledger.open_for_reading(self.settings.state) as ledger:
            return compare_with_ledger(ledger, dump, Settling(began, 0.0))

    @property
    def reads_changes(self) -> bool:
        """Whether the next round need not read all of Mem0."""
        return self._mem0.reads_changes and not self.drains_outbox()

    def drains_outbox(self) -> bool:
        """Whether the adapters capture writes, so that the outbox has to be drained."""
        state = read_journal(self.settings.state).state
        return state.is_under_way and state.catch_up == "outbox"

    def outbox_waits(self) -> bool:
        """Whether anything was captured since the last drain."""
        return self._outbox_drainer().waits()

    async def drain(self, api: SpectronApi) -> Drained | None:
        """Deliver what was captured and publish who is caught up; hold `round_lock` meanwhile.

        None if nothing is captured, or before a round has planned the base. Raises NotLegal on a host other than the
        outbox's, and what `Drainer.drain` raises.
        """
        return await self._outbox_drainer().drain(api) if self.drains_outbox() else None

    def _outbox_drainer(self) -> Drainer:
        if self._drainer is None:
            try:
                outbox = Outbox(self.settings.state, host=socket.gethostname())
            except OtherHost as error:
                raise NotLegal(str(error), hint="run `spectron-migrate replay --follow` on that host") from None
            self._drainer = Drainer(
                self.settings.state,
                self.settings.mapping,
                outbox,
                max_lag_s=self.settings.max_lag_s,
                into_existing=self.settings.into_existing,
                marker=self._marker,
                reporter=self._reporter,
                clock=self._clock,
                now=self._now,
                sleep=self._sleep,
            )
        return self._drainer

    def close(self) -> None:
        """Close the outbox, if it was opened, and what is kept between readings."""
        self._mem0.close()
        if self._drainer is not None:
            self._drainer.close()

    async def _read_and_deliver(self, api: SpectronApi, *, compare: bool, supersede: bool) -> Round:
        started = self._now()
        # With an outbox, only a reading of everything shows the results of unknown calls.
        reads = compare or self.drains_outbox()
        begin = self._clock()
        reading = await (self._mem0.read() if reads else self._mem0.read_if_changed())
        reading = replace(reading, seconds=self._clock() - begin)
        only = self._to_plan(reading)
        if only == {} and not reading.was_read and not await asyncio.to_thread(self._has_something_to_send):
            return await asyncio.to_thread(self._conclude, format_time(started), reading, None, None, None)
        with open_dump(self.settings.dump) as dump:
            if dump.digest != reading.digest:
                only = None  # somebody else has exported in between
            # If the clock was ahead during a scan, later scans are dated after it. The published time must follow the
            # clock.
            is_whole = reading.was_read and reading.only is None
            began = min(dump.manifest.scan_began, format_time(started)) if is_whole else format_time(started)
            settling = Settling(began, self.settings.settle_s, self._first_seen)
            self._planned, self._unplanned = (dump.digest, only) if only is not None else (None, {})
            changes, done = await self._deliver(api, dump, settling, only=only, late=not supersede)
            self._first_seen = settling.first_seen
            self._note_planned(dump.digest, changes)
            compared = dump if compare else None
            concluded = await asyncio.to_thread(self._conclude, began, reading, changes, done, compared)
            if concluded.compared is not None and concluded.compared.total:
                self._planned = None  # another process has planned since, so the same dump has to be planned again
            return concluded

    def _to_plan(self, reading: Reading) -> dict[str, Memory | None] | None:
        """The memories of the newest dump that are not planned yet; None if that is not known."""
        if self._planned is None or reading.previous != self._planned or (reading.only is None and reading.changes):
            return None
        return {**self._unplanned, **(reading.only or {})}

    def _note_planned(self, planned: str, changes: Changes) -> None:
        """Remember that the dump with this digest was planned, and which of its memories wait."""
        self._planned = planned if changes.waiting_memories is not None else None
        self._unplanned = dict(changes.waiting_memories or {})

    def _has_something_to_send(self) -> bool:
        with Ledger.open_for_reading(self.settings.state) as ledger:
            left = cutover.count_undecided(ledger)
            return bool(left.remaining or left.in_doubt)

    async def _deliver(
        self, api: SpectronApi, dump: Dump, settling: Settling, *, only: Mapping[str, Memory | None] | None, late: bool
    ) -> tuple[Changes, ReplaySummary]:
        self._deferred.begin_run()
        changes = Changes(settling, only=only, most_waiting=MOST_BEHIND)
        options = ReplayOptions(
            supersede=not late,
            max_in_flight=self.settings.max_in_flight,
            max_rps=self.settings.max_rps,
            into_existing=self.settings.into_existing,
            accept_expiry=self.settings.accept_expiry,
        )
        self._replay = Replay(
            self.settings.state,
            dump,
            self.settings.mapping,
            options,
            reporter=self._reporter,
            changes=changes,
            deferred=self._deferred,
            marker=self._marker,
            clock=self._clock,
            now=self._now,
            sleep=self._sleep,
        )
        if self._reporter.stopped is not None:
            self._replay.interrupt(self._reporter.stopped)
        return changes, await self._replay.run(api)

    def _conclude(
        self,
        began: str,
        reading: Reading,
        changes: Changes | None,
        done: ReplaySummary | None,
        compared: Dump | None,
    ) -> Round:
        """`changes` and `done`: None if nothing was delivered.

        `compared`: the dump to compare with the ledger, memory by memory, if any.
        """
        with Ledger.open_for_reading(self.settings.state) as ledger:
            left = cutover.count_undecided(ledger)
            refused = cutover.refused_memories(ledger)
            behind = owners_behind(ledger, read_journal(self.settings.state).state, refused)
            waiting = changes.waiting_owners if changes is not None else set()
            settling = Settling(began, self.settings.settle_s, self._first_seen)
            held = {} if done is not None and done.stopped else self._deferred.reasons
            return Round(
                migration=_migration(ledger),
                began_at=datetime.fromisoformat(began),
                memories=reading.memories,
                new=reading.new,
                changed=reading.changed,
                touched=reading.touched,
                deleted=reading.deleted,
                returned=reading.returned,
                read_s=reading.seconds,
                was_read=reading.was_read,
                missed=reading.missed,
                written=done.written if done is not None else 0,
                late=done.late if done is not None else 0,
                refused=len(refused),
                waiting=changes.waiting if changes is not None else 0,
                left=left,
                behind=None if behind is None or waiting is None else frozenset(behind | waiting),
                problem=_problem(done, held),
                held=len(held),
                compared=None if compared is None else compare_with_ledger(ledger, compared, settling),
            )


def _migration(ledger: Ledger) -> str:
    migration = ledger.migration()
    assert migration is not None  # noqa: S101 - a round concludes after a plan
    return migration.id


def _problem(done: ReplaySummary | None, held: Mapping[str, str]) -> str | None:
    """Why a delivery did not finish. Undecidable facts are no problem, because they hold only their own lane."""
    if held:
        return f"{counted(len(held), 'lane is', 'lanes are')} held by doubt: {next(iter(held.values()))}"
    if done is None or done.exit_code not in (ExitCode.UNREACHABLE, ExitCode.KEY):
        return None
    left = done.remaining + done.in_doubt
    return done.stopped or f"{counted(left, 'memory')} could not be delivered" if left else None
