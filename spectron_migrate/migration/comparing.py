"""Decides when a follower compares all of Mem0 with the ledger, and keeps the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from spectron_migrate.errors import Incomplete, Unreachable
from spectron_migrate.migration.compare_beside import BesideComparison
from spectron_migrate.migration.differences import Differences
from spectron_migrate.migration.reconcile import Agreement, Compared, write_result
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds, comparison_beside
from spectron_migrate.records import format_time
from spectron_migrate.state.unreachable import StateUnreachable

RECONCILING_SHARE = 1 / 3
"""The most of its time that a follower spends reading all of Mem0 only because `cutover.reconcile` says so."""
BESIDE_FROM_S = 5.0
"""If a round that compares takes longer than this, the next comparison is made beside the rounds."""

AGAIN_S = 60.0
"""A comparison beside the rounds that failed is made again this long after it began, or later if it took long."""


class Comparing:
    """Compares at the first round, and every `cutover.reconcile` from the moment when two comparisons agree, or when a
    round that reads everything leaves a difference as it was, because a person or time has to decide it.

    If that takes long, and rounds read only what changed, all is read beside them; else, and after a new difference, in
    a round.
    """

    def __init__(self, rounds: Rounds, *, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        """`clock` in seconds, monotonic; `now` with its zone."""
        self._rounds = rounds
        self._clock = clock
        self._now = now
        self.due_at = float("-inf")
        """When the next comparison is due, by `clock`."""
        self._began = 0.0
        self._agreement = Agreement()
        self._beside: BesideComparison | None = None
        self._reading: asyncio.Task[None] | None = None
        self._took_s = 0.0
        """How long the last round that compared took."""
        self._in_round = False
        """Whether the next comparison has to be made in a round."""
        self._left: Differences | None = None
        """What the last round that compared could not mend; None if nothing was left."""
        self.problem: str | None = None
        """Why the last comparison beside the rounds failed."""

    @property
    def is_beside(self) -> bool:
        """Whether comparisons are made beside the rounds."""
        return self._took_s > BESIDE_FROM_S and self._rounds.reads_changes

    def begin(self) -> bool:
        """Whether the round that begins now should compare. Starts a reading beside the rounds if one is due."""
        if self._reading is not None or self._clock() < self.due_at:
            return False
        self._began = self._clock()
        if self._in_round or not self.is_beside:
            return True
        self._beside = comparison_beside(self._rounds.settings, self._beside, now=self._now)
        self._reading = asyncio.create_task(asyncio.to_thread(self._beside.read))
        return False

    async def conclude(self, done: Round) -> None:
        """Keep the result of the comparison in this round, or of one beside the rounds that has ended.

        One beside the rounds that failed is a `problem`, and is made again later. Raises StateUnreachable, and
        Interrupted after `stop`.
        """
        shown: Compared | None = done
        if self._reading is not None:
            shown = await self._conclude_beside(done)
        elif done.compared is not None:
            self._in_round, self._took_s, self.problem = False, self._clock() - self._began, None
        if shown is None or shown.compared is None:
            return
        compared = shown.compared
        agree = self._agreement.add(shown)
        if agree or compared.total:
            write_result(self._rounds.settings.state, self._agreement.result(format_time(self._now())))
        is_left = self._left is not None and compared.is_same(self._left)
        if shown is done or not compared.total:
            self._left = compared if compared.total else None
        if shown is not done:
            self._in_round = compared.total > 0 and not is_left
        if agree or is_left:
            self._wait(self._rounds.settings.reconcile_s)

    def stop(self) -> None:
        """End the reading; may be called from a signal handler."""
        if self._beside is not None:
            self._beside.stop()

    async def end(self) -> None:
        """Wait until the reading has ended. Nobody needs any more what it finds, or why it failed."""
        self.stop()
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # asyncio reports one that nobody has looked at

    def _wait(self, least_s: float) -> None:
        """Begin the next comparison no earlier than this after the last one began, and within its share of the time."""
        took_s = self._clock() - self._began
        self.due_at = self._began + max(least_s, took_s / RECONCILING_SHARE)

    async def _conclude_beside(self, done: Round) -> Compared | None:
        """None if the reading goes on, or ended after the round had begun, or failed, or proves nothing."""
        reading, beside = self._reading, self._beside
        if reading is None or beside is None or not reading.done():
            return None
        if reading.exception() is None and done.as_of <= beside.ended:
            return None
        self._reading = None
        try:
            await reading
            shown = await asyncio.to_thread(beside.conclude)
        except StateUnreachable:
            raise
        except (Unreachable, Incomplete) as error:
            self.problem = f"all of Mem0 could not be compared with the ledger: {error.message}"
            self._wait(min(AGAIN_S, self._rounds.settings.reconcile_s))
            return None
        self._in_round, self.problem = shown is None, None
        return shown
