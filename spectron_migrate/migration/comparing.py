"""Decides when a follower compares all of Mem0 with the ledger, and keeps the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from spectron_migrate.errors import MigrateError
from spectron_migrate.migration.compare_beside import BesideComparison
from spectron_migrate.migration.reconcile import Agreement, Compared, write_result
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds, comparison_beside
from spectron_migrate.records import format_time

RECONCILING_SHARE = 1 / 3
"""The most of its time that a follower spends reading all of Mem0 only because `cutover.reconcile` says so."""


BESIDE_FROM_S = 5.0
"""If a round that compares takes longer than this, the next comparison is made beside the rounds."""


class Comparing:
    """Compares in the first round, and every `cutover.reconcile` once two comparisons agree.

    If a comparison takes long, and rounds read only what changed, the next one is made beside the rounds. Otherwise,
    and after a difference, it is made in a round.
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
            self._beside = None
            return True
        self._beside = comparison_beside(self._rounds.settings, now=self._now)
        self._reading = asyncio.create_task(asyncio.to_thread(self._beside.read))
        return False

    async def conclude(self, done: Round) -> None:
        """Keep the result of the comparison in this round, or of one beside the rounds that has ended.

        Hold `round_lock` during the call. Raises the error that stopped a reading beside the rounds.
        """
        shown: Compared | None = done
        if self._reading is not None:
            shown = await self._conclude_beside(done)
        elif done.compared is not None:
            self._in_round, self._took_s = False, self._clock() - self._began
        if shown is None or shown.compared is None:
            return
        agree = self._agreement.add(shown)
        if agree or shown.compared.total:
            write_result(self._rounds.settings.state, self._agreement.result(format_time(self._now())))
        if agree:
            took_s = self._clock() - self._began
            self.due_at = self._began + max(self._rounds.settings.reconcile_s, took_s / RECONCILING_SHARE)

    def stop(self) -> None:
        """End the reading; may be called from a signal handler."""
        if self._beside is not None:
            self._beside.stop()

    async def end(self) -> None:
        """Wait until the reading has ended."""
        self.stop()
        reading, self._reading = self._reading, None
        if reading is not None:
            with suppress(MigrateError):
                await reading

    async def _conclude_beside(self, done: Round) -> Compared | None:
        """The result; None if the reading goes on, ended after the round had begun, or proves nothing."""
        reading, beside = self._reading, self._beside
        if reading is None or beside is None or not reading.done():
            return None
        if reading.exception() is None and done.as_of <= beside.ended:
            return None
        self._reading = None
        await reading
        shown = await asyncio.to_thread(beside.conclude)
        self._in_round = shown is None or shown.compared.total > 0
        return shown
