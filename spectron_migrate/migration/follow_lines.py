"""The lines that people see while Mem0 is followed: few, even if there are many rounds and drains."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from spectron_migrate.migration.drain_outbox import Drained
from spectron_migrate.migration.round_result import Round, count_behind
from spectron_migrate.records import counted, format_time
from spectron_migrate.reporter import Reporter

DRAINS_EVERY_S = 5.0
"""How often drains are reported."""
FOLD_S = 600.0
"""Rounds in which nothing happens share one line for up to this long."""


class FollowLines:
    """Shows a line for each round in which something happens, and one for all drains of a few seconds."""

    def __init__(self, reporter: Reporter, *, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._reporter = reporter
        self._clock = clock
        self._now = now
        self._round: Round | None = None
        """The last round."""
        self._rounds = 0
        self._shown: Round | None = None
        """The round that the last line is about."""
        self._folded: list[int] = []
        """Rounds since then; nothing happened in them."""
        self._fold_until = float("-inf")
        self._results = 0
        """Results of drains that have no line yet, and how many of them were written."""
        self._written = 0
        self._drains_at = float("-inf")
        self._problem: str | None = None

    def show_round(self, done: Round, number: int) -> None:
        """Show a line for a round in which something happened, and one for all quiet rounds between two such rounds."""
        self._round, self._rounds = done, number
        before = self._shown
        if before is not None and done.quiet and done.shows_same(before):
            if not self._folded:
                self._fold_until = self._clock() + FOLD_S
            self._folded.append(number)
            if self._clock() >= self._fold_until:
                self.unfold()
        else:
            self.unfold()
            self._shown = done
            self._reporter.info(done.describe(number))
            behind = None if done.behind is None else len(done.behind)
            counts = {name: getattr(done, name) for name in ("memories", "new", "changed", "deleted", "written")}
            self._reporter.event("round", number=number, behind=behind, **counts)
        self._show_stage()

    def show_comparison(self, problem: str | None, due_at: float) -> None:
        """A line if comparisons beside the rounds begin to fail. `due_at`: when the next one begins, by the clock."""
        if problem is not None and problem != self._problem:
            self.unfold()
            again = f"rounds go on, and it is tried again in {max(0.0, due_at - self._clock()):.0f} s"
            self._reporter.info(f"{format_time(self._now())[11:19]} {problem}; {again}")
        self._problem = problem

    def unfold(self) -> None:
        """Show the line for quiet rounds, if there were any, because another line is about to follow."""
        if self._folded:
            first, last = self._folded[0], self._folded[-1]
            which = f"round {first}" if first == last else f"rounds {first:,} to {last:,}"
            self._reporter.info(f"{format_time(self._now())[11:19]} {which}: nothing changed")
            self._folded = []

    def show_drain(self, drained: Drained) -> bool:
        """Whether the line about recent drains was due. It is shown only if they did anything."""
        self._results += drained.taken
        self._written += drained.written
        is_due = self._clock() >= self._drains_at
        if is_due:
            self._drains_at = self._clock() + DRAINS_EVERY_S
            if self._results or self._written:
                self._reporter.info(
                    f"{drained.as_of[11:19]} drained {counted(self._results, 'result')};"
                    f" {self._written:,} written; behind: {count_behind(drained.behind)}"
                )
                self._reporter.event("drain", results=self._results, written=self._written)
                self._results = self._written = 0
        if drained.written:
            self._show_stage()
        return is_due

    def _show_stage(self) -> None:
        """Show on a terminal what happens between rounds."""
        if self._round is not None:
            self._reporter.stage(
                f"following: {counted(self._rounds, 'round')}, {counted(self._round.memories, 'memory')} in Mem0,"
                f" {counted(len(self._folded), 'round')} quiet, behind: {count_behind(self._round.behind)}"
            )
