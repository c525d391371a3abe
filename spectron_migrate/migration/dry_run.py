"""The dry run of a replay: plans on a copy of the ledger, and forecasts what a replay would send."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.dump import Dump
from spectron_migrate.ledger import Ledger, decisions, plan
from spectron_migrate.ledger.read.plans import plan_counts
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.forecast import Pace, make_forecast
from spectron_migrate.migration.planning import find_unchanged_plan, make_plan
from spectron_migrate.migration.planning_warnings import warn_before_planning
from spectron_migrate.migration.replay_options import ReplayOptions, refuse_expiry
from spectron_migrate.migration.replay_summary import ReplaySummary, summarize
from spectron_migrate.records import format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore, store_at

if TYPE_CHECKING:
    from spectron_migrate.migration.adopt import AdoptionCost


class DryRun:
    """A replay that sends nothing: it needs no server, and changes neither dump nor ledger."""

    def __init__(
        self,
        state: Path | StateStore,
        dump: Dump,
        mapping: ScopeMapping,
        options: ReplayOptions,
        *,
        reporter: Reporter,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._state = store_at(state)
        self._dump = dump
        self._mapping = mapping
        self._options = options
        self._reporter = reporter
        self._now = now

    def run(self, *, context: str) -> ReplaySummary:
        """Plan and forecast. A ledger that already has this plan is read in place.

        `context`: empty for the context of the ledger.
        """
        options = self._options
        with ExitStack() as open_things:
            ledger, number = self._open_unchanged(context, open_things) or self._plan_on_copy(context, open_things)
            migration = ledger.migration()
            assert migration is not None  # noqa: S101 - a plan belongs to a migration
            left_out = {} if options.filters else self._dump.manifest.left_out
            summary = summarize(ledger, number, before=plan_counts(ledger, number), left_out=left_out)
            pace = Pace.of(self._state, migration.context, options.max_in_flight, options.max_rps)
            forecast = make_forecast(ledger, number, self._dump, self._mapping, pace, reporter=self._reporter)
            return replace(summary, forecast=forecast, adoption=self._adoption_cost(ledger))

    def _adoption_cost(self, ledger: Ledger) -> AdoptionCost | None:
        if not self._options.adopt:
            return None
        from spectron_migrate.migration.adopt import adoption_cost  # most runs do without it

        return adoption_cost(ledger, self._mapping.session_size)

    def _open_unchanged(self, context: str, open_things: ExitStack) -> tuple[Ledger, int] | None:
        """The ledger and its plan, if a dry run would change neither: copying a large ledger takes a while."""
        if self._options.retry_failed or not Ledger.exists(self._state):
            return None
        ledger = open_things.enter_context(Ledger.open_for_reading(self._state))
        context = context or getattr(ledger.migration(), "context", "")
        planned = find_unchanged_plan(ledger, self._dump, self._mapping, self._options.filters, context=context)
        if planned is None or plan.would_mark_late(ledger, planned.id):
            return None
        warn_before_planning(ledger, self._dump, self._options.filters, self._reporter)
        refuse_expiry(ledger, planned.id, self._mapping, self._options)
        return ledger, planned.id

    def _plan_on_copy(self, context: str, open_things: ExitStack) -> tuple[Ledger, int]:
        ledger = open_things.enter_context(Ledger.scratch_copy(self._state))
        known = ledger.migration()
        number = make_plan(
            ledger,
            self._dump,
            self._mapping,
            self._options.filters,
            context=context or (known.context if known else ""),
            now=format_time(self._now()),
            reporter=self._reporter,
            deletions=not read_journal(self._state).state.sealed,
        ).id
        with ledger.transaction():
            if self._options.retry_failed:
                decisions.retry_refused(ledger, number)
            plan.mark_late(ledger, number)
            refuse_expiry(ledger, number, self._mapping, self._options)
        return ledger, number
