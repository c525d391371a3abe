"""Following: brings to Spectron what applications change in Mem0, round by round.

A round brings the dump up to date: it reads all of Mem0, as export does, or only what changed if that is certain to be
everything. This finds updates, deletions (a memory is missing) and writes that bypass the adapter. The round then plans
what changed and has settled, and delivers it as replay does. With `catch_up: outbox` the follower is also the one
process that drains the outbox, several times a second; then rounds only prove that nothing was missed. It may be killed
at any moment: dump, ledger and routing are each replaced as a whole.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from spectron_migrate.errors import ExitCode, Incomplete, Interrupted, LedgerLocked, Unreachable
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.migration.comparing import Comparing
from spectron_migrate.migration.drain_outbox import Drained
from spectron_migrate.migration.follow_lines import FollowLines
from spectron_migrate.migration.follow_summary import FollowSummary
from spectron_migrate.migration.ledger_access import follow_lock, round_lock
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import CatchUpSettings, Rounds
from spectron_migrate.records import format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.following import COMPARES_BESIDE, FOLLOW_FILE, FOLLOW_LOCK
from spectron_migrate.state.journal import publish_routing, read_journal
from spectron_migrate.state.store import Lock, store_at, write_object
from spectron_migrate.state.unreachable import StateUnreachable

EVERY_S = 5.0
"""The shortest pause between rounds.

A pause is up to twice as long as the reading of Mem0, so that Mem0 is being read for at most a third of the time.
"""
DRAIN_EVERY_S = 0.2
"""How often the outbox is checked."""
PUBLISH_EVERY_S = 1.0
"""How often an empty outbox is drained, only to publish that everybody is caught up."""
WAIT_S = 1.0
"""How often a process that waits to follow checks whether the other one still does."""
BUSY_S = 1.0
"""The pause before the next drain while another process holds the ledger."""
LONG_BUSY_S = 5.0
"""A step of a cutover holds the ledger for less than this. After this time it is reported."""
HELD = (
    "while another command writes the ledger nothing is drained, and after cutover.max_lag everybody is read from Mem0"
)
"""What it means that another command holds the ledger while the outbox is filled."""
NOTE_EVERY_S = 10.0
"""`after_changes` is called at most this often, and takes at most a twentieth of the time."""
TROUBLE_S = (1.0, 60.0)
"""The first and the longest pause after a round that failed."""
STOPPED_S = 10.0
"""The longest pause if only some lanes failed, because the others wait for the next round."""


@dataclass
class _Totals:
    rounds: int = 0
    new: int = 0
    changed: int = 0
    deleted: int = 0
    written: int = 0
    late: int = 0
    missed: int = 0
    last: Round | None = None
    left: Undecided | None = None
    as_of: str | None = None

    def add(self, done: Round) -> None:
        self.rounds += 1
        self.last, self.left, self.as_of = done, done.left, done.as_of
        for name in ("new", "changed", "deleted", "written", "late", "missed"):
            setattr(self, name, getattr(self, name) + getattr(done, name))

    def add_drain(self, drained: Drained) -> None:
        self.written += drained.written
        self.left, self.as_of = drained.left, drained.as_of


class Follow:
    """The process that follows; `interrupt` may be called from a signal handler."""

    def __init__(
        self,
        settings: CatchUpSettings,
        *,
        reporter: Reporter,
        every_s: float = EVERY_S,
        max_seconds: float | None = None,
        after_changes: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`every_s`: the shortest pause between rounds. `after_changes` is called after the ledger has changed.

        `clock` in seconds, monotonic; `now` with its zone.
        """
        self._settings = settings
        self._reporter = reporter
        self._every_s = every_s
        self._after_changes = after_changes
        self._is_changed = True
        """Whether the ledger has changed since `after_changes` was last called."""
        self._note_at = float("-inf")
        self._deadline = None if max_seconds is None else clock() + max_seconds
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._rounds = Rounds(settings, reporter=reporter, clock=clock, now=now, sleep=sleep)
        self._totals = _Totals()
        self._woken = asyncio.Event()
        self._lock: Lock | None = None
        """`follow.lock`; None while another process holds it."""
        self._waits_for: str | None = None
        """The process that holds the lock, if this one waits for it."""
        self._code: ExitCode | None = None
        self._problem: str | None = None
        self._trouble_s = TROUBLE_S[0]
        self._has_warned_slow = False
        self._comparing = Comparing(self._rounds, clock=clock, now=now)
        self._round_at = float("-inf")
        """When the next round is due. The outbox is drained between rounds."""
        self._was_under_way = False
        self._round_s = self._read_s = 0.0
        """How long the last round took, and how much of that was reading Mem0."""
        self._publish_at = float("-inf")
        self._lines = FollowLines(reporter, clock=clock, now=now)
        self._busy_since: float | None = None
        """When another process was first seen to hold the ledger, without a break since."""

    def interrupt(self, code: ExitCode) -> None:
        """Finish what is in flight, begin nothing more."""
        self._code = code
        self._rounds.interrupt(code)
        self._comparing.stop()
        self._woken.set()

    async def run(self, api: SpectronApi) -> FollowSummary:
        """Follow until a signal, `max_seconds`, or the end of the cutover.

        It reports and waits out outages of Mem0 or Spectron, and another process that writes the ledger. With the state
        in a database it also waits while another process follows; with the state in a directory it raises LedgerLocked
        instead. Raises errors that waiting cannot mend, such as a rejected key or a bad mapping.
        """
        store_at(self._settings.state).prepare()
        ended = "stopped"
        with ExitStack() as held:
            held.callback(self._release_lock)
            held.callback(self._rounds.close)
            try:
                while self._code is None:
                    try:
                        follows = self._holds_lock()
                        over = self._why_over()
                        if over:
                            ended = over
                            break
                        await self._pause(await self._once(api) if follows else WAIT_S)
                    except StateUnreachable as error:
                        await self._pause(self._trouble(error.message))
            except BaseException:
                with suppress(Exception):  # what ended it is to be reported
                    await self._finish(ended)
                raise
            await self._finish(ended)
        return self._summary(ended)

    async def _finish(self, ended: str) -> None:
        await self._comparing.end()
        self._lines.unfold()
        self._keep(ended=ended)
        with suppress(StateUnreachable):
            self._note_changes(self._totals.last is not None)

    def _holds_lock(self) -> bool:
        """Whether this process holds the lock of the follower, taking it if it is free.

        Another holder is reported once.
        """
        if self._lock is not None and not self._lock.is_lost:
            return True
        self._release_lock()
        self._lock = follow_lock(self._settings.state)
        if self._lock is None and self._waits_for is None:
            self._waits_for = store_at(self._settings.state).holder_of(FOLLOW_LOCK)
            self._reporter.info(f"{self._stamp()[11:19]} {self._waits_for} follows: waiting to take over from it")
        elif self._lock is not None and self._waits_for is not None:
            self._reporter.info(f"{self._stamp()[11:19]} {self._waits_for} has ended: following in its place")
            self._waits_for = None
        return self._lock is not None

    def _release_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _why_over(self) -> str:
        """Why following has to end; empty if it does not."""
        state = self._cutover()
        if state.phase == "complete" or (self._was_under_way and not state.is_under_way):
            return f"the cutover is {state.phase}"
        self._was_under_way = state.is_under_way
        is_late = self._deadline is not None and self._clock() >= self._deadline
        return "the time limit was reached" if is_late else ""

    async def _once(self, api: SpectronApi) -> float:
        """Run one round or one drain; returns the seconds to pause."""
        if self._clock() < self._round_at and self._rounds.drains_outbox():
            return await self._drain(api)
        pause_s = await self._round(api)
        self._round_at = self._clock() + pause_s
        return DRAIN_EVERY_S if self._rounds.drains_outbox() else pause_s

    async def _round(self, api: SpectronApi) -> float:
        """Run one round, or report why it failed; returns the seconds until the next one."""
        began = self._clock()
        compare = self._comparing.begin()
        try:
            async with round_lock(self._settings.state, sleep=self._sleep, patience_s=1.0):
                done = await self._rounds.round(api, compare=compare)
                self._totals.add(done)
                self._is_changed |= not done.quiet
                self._lines.show_round(done, self._totals.rounds)
                await self._comparing.conclude(done)
                self._lines.show_comparison(self._comparing.problem, self._comparing.due_at)
        except (Unreachable, Incomplete, LedgerLocked) as error:
            publish_routing(self._settings.state, now=self._stamp())
            is_held = isinstance(error, LedgerLocked) and self._rounds.drains_outbox()
            return self._trouble(f"{HELD}: {error.message}" if is_held else error.message)
        except Interrupted:
            return 0.0
        self._note_changes(self._clock() >= self._note_at)
        if done.problem is not None and not done.held:
            return self._trouble(done.problem, longest_s=STOPPED_S)
        self._problem = done.problem
        self._keep()
        self._round_s = self._clock() - began
        self._read_s = done.read_s
        rest_s = self._rest(self._round_s, self._read_s)
        if not self._rounds.drains_outbox():
            return rest_s
        # Drains deliver captured results and what the round left over. Another round only has to find writes that
        # bypassed the adapter.
        next_s = self._settings.settle_s if done.waiting else self._comparing.due_at - self._clock()
        return max(rest_s, next_s)

    def _note_changes(self, is_due: bool) -> None:
        if self._is_changed and is_due:
            began = self._clock()
            self._after_changes()
            self._is_changed = False
            self._note_at = self._clock() + max(NOTE_EVERY_S, 20 * (self._clock() - began))

    async def _drain(self, api: SpectronApi) -> float:
        """Drain the outbox if anything waits in it; returns the seconds to pause."""
        self._note_changes(self._clock() >= self._note_at)
        if not self._rounds.outbox_waits() and self._clock() < self._publish_at:
            return DRAIN_EVERY_S
        self._publish_at = self._clock() + PUBLISH_EVERY_S
        try:
            async with round_lock(self._settings.state, sleep=self._sleep, patience_s=0.0):
                drained = await self._rounds.drain(api)
        except LedgerLocked as error:
            return self._busy(error.message)
        except Unreachable as error:
            return self._trouble(error.message, longest_s=STOPPED_S)
        self._busy_since = None
        if drained is None or drained.unknown:  # there is no base yet, or some results can only be found by a round
            self._round_at = min(self._round_at, self._clock() + self._rest(self._round_s, self._read_s))
        if drained is None:
            return DRAIN_EVERY_S
        self._totals.add_drain(drained)
        self._is_changed |= drained.taken > 0
        self._problem = None
        if self._lines.show_drain(drained):
            self._keep()
        return DRAIN_EVERY_S

    def _busy(self, why: str) -> float:
        """Report, once it lasts, that replays keep the outbox from being drained; returns the seconds to pause."""
        now = self._clock()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since >= LONG_BUSY_S and self._problem is None:
            self._trouble(f"{HELD}: {why}")
        return BUSY_S

    def _rest(self, took_s: float, read_s: float) -> float:
        """The pause after a round, short enough that `routing.json` is renewed before it runs out.

        `read_s`: how many seconds of the round were spent reading Mem0.
        """
        room = self._settings.max_lag_s - 2.5 * took_s
        if room < 0 and not self._has_warned_slow:
            self._has_warned_slow = True
            self._reporter.warn(
                f"a round takes {took_s:.0f} s, so that users are read from Mem0 part of the time: cutover.max_lag"
                f" ({self._settings.max_lag_s:g} s) should be above {3 * took_s:.0f} s"
            )
        return max(self._every_s, min(2 * read_s, room))

    def _trouble(self, problem: str, *, longest_s: float = TROUBLE_S[1]) -> float:
        self._trouble_s = TROUBLE_S[0] if self._problem is None else min(longest_s, self._trouble_s * 2)
        self._problem = problem
        self._lines.unfold()
        self._reporter.info(
            f"{self._stamp()[11:19]} not everything was delivered: {problem}; again in {self._trouble_s:.0f} s"
        )
        self._reporter.event("trouble", again_in_s=round(self._trouble_s))
        self._keep()
        return self._trouble_s

    async def _pause(self, seconds: float) -> None:
        """Sleep until a signal or the time limit ends it."""
        if self._deadline is not None:
            seconds = min(seconds, max(0.0, self._deadline - self._clock()))
        waits = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._woken.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _cutover(self) -> CutoverState:
        return read_journal(self._settings.state).state

    def _keep(self, ended: str | None = None) -> None:
        if self._lock is None:
            return  # only the process that follows writes this report
        last = self._totals.last
        with suppress(StateUnreachable):  # the state's outage is reported as the problem anyway
            report = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "at": self._stamp(),
                "rounds": self._totals.rounds,
                "as_of": self._totals.as_of,
                "missed": self._totals.missed,
                "last": last.to_json() if last else None,
                "problem": self._problem or self._comparing.problem,
                "ended": ended,
                COMPARES_BESIDE: self._comparing.is_beside,
            }
            write_object(self._settings.state, FOLLOW_FILE, report)

    def _summary(self, ended: str) -> FollowSummary:
        totals, last = self._totals, self._totals.last
        left = totals.left
        code = self._code or ExitCode.DONE
        open_end = last is None or last.waiting or (left is not None and left.total)
        if self._code is None and self._deadline is not None and open_end:
            code = ExitCode.LIMIT
        return FollowSummary(
            migration=last.migration if last else "",
            rounds=totals.rounds,
            new=totals.new,
            changed=totals.changed,
            deleted=totals.deleted,
            written=totals.written,
            late=totals.late,
            waiting=last.waiting if last else 0,
            remaining=left.remaining if left else 0,
            in_doubt=left.in_doubt if left else 0,
            undecidable=left.undecidable if left else 0,
            refused=last.refused if last else 0,
            as_of=totals.as_of,
            ended=ended,
            exit_code=code,
        )

    def _stamp(self) -> str:
        return format_time(self._now())
