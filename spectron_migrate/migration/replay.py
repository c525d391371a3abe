"""Replay: write to Spectron what is not there yet, oldest first, exactly once; a second run resumes the first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from spectron_migrate.delivery.brake import Brake
from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.delivery.preflight import check_server
from spectron_migrate.delivery.review import write_review
from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.uncertain import read_uncertainties
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode, InputError, Interrupted
from spectron_migrate.ledger import Ledger, batches, decisions, plan, runs
from spectron_migrate.ledger.read.plans import PlanCounts, plan_counts
from spectron_migrate.ledger.shards import Shard, refuse_outbox
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.adopt import adopt, adoption_cost, is_due
from spectron_migrate.migration.adoption_run import Adopted, AdoptionSettings
from spectron_migrate.migration.changes import Changes
from spectron_migrate.migration.deliver import Limits, begin_run, deliver_plan
from spectron_migrate.migration.forecast import Pace, make_forecast
from spectron_migrate.migration.planning import find_unchanged_plan, make_plan, warn_before_planning
from spectron_migrate.migration.replay_summary import ReplaySummary, summarize, why_stopped
from spectron_migrate.migration.sharding import Sharding, refuse_plain
from spectron_migrate.records import Filters, Reporter, format_time
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore, store_at
from spectron_migrate.state.uncertain import Uncertainties, keep_uncertainties

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Options of one run; they do not change what is in Spectron once everything is delivered."""

    filters: Filters = field(default_factory=Filters)
    limit: int | None = None
    retry_failed: bool = False
    resolve: Mapping[str, Literal["present", "absent"]] = field(default_factory=dict)
    """Decisions of a person about undecidable memories, by Mem0 id, or `ID@VERSION` where one has several."""
    choices: Mapping[str, Literal["newer", "older"]] = field(default_factory=dict)
    """Decisions of a person about the text of pending memories, by Mem0 id."""
    into_existing: bool = False
    adopt: bool = False
    """Look for everything on the server before it is written: the ledger, or the server, was lost or restored."""
    supersede: bool = True
    """False once applications write to Spectron: everything sent from then on is late and supersedes nothing."""
    max_in_flight: int = 64
    max_rps: float | None = None
    max_seconds: float | None = None
    max_tokens: int | None = None
    max_refused: int = 0
    shard: Shard | None = None
    """The part of the lanes that this process delivers; other processes deliver the others."""
    called_with: tuple[tuple[str, str], ...] = ()
    """Options of the command line that the next command needs too; kept for `status`."""
    accept_expiry: bool = False
    """Accept that `write: batch` with extraction loses known times and categories."""


class Replay:
    """One run; `interrupt` may be called from a signal handler."""

    def __init__(
        self,
        state: Path | StateStore,
        dump: Dump,
        mapping: ScopeMapping,
        options: ReplayOptions,
        *,
        reporter: Reporter,
        changes: Changes | None = None,
        deferred: DeferredWork | None = None,
        marker: RunMarker | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`changes` limits the run to what has changed.

        `deferred`: what earlier rounds of this process left waiting; `marker`: the one that they share.
        """
        self._root = store_at(state)
        self._state = store_at(options.shard.folder(self._root)) if options.shard else self._root
        self._dump = dump
        self._mapping = mapping
        self._options = options
        self._reporter = reporter
        self._changes = changes
        self._deferred = deferred or DeferredWork()
        self._marker = marker or RunMarker(sleep=sleep)
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._run: Run | None = None
        self._adopting_s = 0.0
        """How long an adoption took; it counts towards `max_seconds`."""
        self._interrupted: ExitCode | None = None
        self._reading: asyncio.Task[Any] | None = None

    def interrupt(self, code: ExitCode) -> None:
        """Let requests in flight finish and begin nothing new."""
        self._interrupted = code
        if self._run is not None:
            self._run.halt("signal", "interrupted")
        if self._reading is not None:
            self._reading.cancel()

    def dry_run(self, *, context: str) -> ReplaySummary:
        """Plan on a copy of the ledger and forecast the replay; needs no server and changes nothing.

        A ledger that has this plan already is read in place. `context`: empty for the context of the ledger.
        """
        with ExitStack() as open_things:
            found = self._open_unchanged(context, open_things)
            ledger, number = found or self._plan_on_copy(context, open_things)
            migration = ledger.migration()
            assert migration is not None  # noqa: S101 - a plan belongs to a migration
            before = plan_counts(ledger, number)
            summary = summarize(ledger, number, before=before, left_out=self._left_out())
            pace = Pace.of(self._root, migration.context, self._options.max_in_flight, self._options.max_rps)
            cost = adoption_cost(ledger, self._mapping.session_size) if self._options.adopt else None
            forecast = make_forecast(ledger, number, self._dump, self._mapping, pace, reporter=self._reporter)
            return replace(summary, forecast=forecast, adoption=cost)

    def _open_unchanged(self, context: str, open_things: ExitStack) -> tuple[Ledger, int] | None:
        """The ledger and its plan, where a dry run would change neither; a copy of a large ledger takes its time."""
        if self._options.shard is not None or self._options.retry_failed or not Ledger.exists(self._state):
            return None
        ledger = open_things.enter_context(Ledger.open_for_reading(self._state))
        migration = ledger.migration()
        context = context or (migration.context if migration else "")
        planned = find_unchanged_plan(ledger, self._dump, self._mapping, self._options.filters, context=context)
        if planned is None or plan.would_mark_late(ledger, planned.id):
            return None
        self._join(context, open_things, dry_run=True)
        warn_before_planning(ledger, self._dump, self._options.filters, self._reporter)
        self._refuse_expiry(ledger, planned.id)
        return ledger, planned.id

    def _plan_on_copy(self, context: str, open_things: ExitStack) -> tuple[Ledger, int]:
        ledger = open_things.enter_context(Ledger.scratch_copy(self._state))
        known = ledger.migration()
        context = context or (known.context if known else "")
        sharding = self._join(context, open_things, dry_run=True)
        number = self._plan(ledger, sharding, context=context, dry_run=True)
        with ledger.transaction():
            if self._options.retry_failed:
                decisions.retry_refused(ledger, number)
            plan.mark_late(ledger, number)
            self._refuse_expiry(ledger, number)
        return ledger, number

    def _join(self, context: str, open_things: ExitStack, *, dry_run: bool) -> Sharding | None:
        """Join the plan that all shards share; None for a plain replay."""
        if self._options.shard is None:
            refuse_plain(self._dump, self._root, context=context)
            return None
        cutover = read_journal(self._root).state
        if cutover.is_under_way and cutover.catch_up == "outbox":
            refuse_outbox(self._root, beginning=self._options.shard)
        sharding = Sharding(self._options.shard, self._root, self._dump, self._mapping, context=context)
        open_things.callback(sharding.close)
        sharding.join(dry_run=dry_run)
        return sharding

    async def run(self, api: SpectronApi) -> ReplaySummary:
        """Plan, check the server, send.

        Raises MigrateError before anything is sent, and NotLegal where the server opens sessions in other scopes.
        """
        with ExitStack() as open_things:
            sharding = self._join(api.context, open_things, dry_run=False)
            ledger = open_things.enter_context(Ledger.open_for_writing(self._state))
            # In a thread, so that a signal is handled while a large dump is merged.
            number = await asyncio.to_thread(self._plan, ledger, sharding, context=api.context)
            self._resolve(ledger)
            adopted = await self._adopt(ledger, api)
            is_to_send = adopted is None or adopted.finished
            principal = await self._check_server(ledger, api, number, sharding) if is_to_send else ""
            self._mark_late(ledger, number)
            before = plan_counts(ledger, number)
            run = self._begin(ledger, api, number, principal=principal)
            if not is_to_send:
                run.halt("limit", "the time that was set is over, and not everything was looked for; nothing was sent")
            elif self._interrupted is None:
                await self._deliver(ledger, run, before)
            review = write_review(ledger, number, self._state)
            summary = summarize(
                ledger,
                number,
                before=before,
                run=run,
                review=review,
                max_refused=self._options.max_refused,
                interrupted=self._interrupted,
                left_out=self._left_out(),
                adopted=adopted,
            )
            return replace(summary, uncertain=await self._uncertain(ledger, api, summary))

    def _plan(self, ledger: Ledger, sharding: Sharding | None, *, context: str, dry_run: bool = False) -> int:
        """Merge the dump into the ledger; the number of the plan."""
        return make_plan(
            ledger,
            self._dump,
            self._mapping,
            self._options.filters,
            context=context,
            now=self._stamp(),
            reporter=self._reporter,
            check_interrupted=self._raise_if_interrupted,
            sharding=sharding,
            changes=None if dry_run else self._changes,
            deletions=self._counts_deletions(),
            choices=None if dry_run else self._options.choices,
        ).id

    def _mark_late(self, ledger: Ledger, number: int) -> None:
        """Decide which facts supersede nothing, refused ones that are retried included, and say how many."""
        with ledger.transaction():
            if self._options.retry_failed:
                decisions.retry_refused(ledger, number)
            late = plan.mark_late(ledger, number, everything=self._others_write())
            self._refuse_expiry(ledger, number)
        if late:
            self._reporter.warn(
                f"{late} memories are late: Spectron already has newer facts of their scopes, so they are written"
                " without superseding anything"
            )

    async def _deliver(self, ledger: Ledger, run: Run, before: PlanCounts) -> None:
        """Send, and note the run for `status`."""
        with runs.record_run(
            ledger,
            plan=run.plan,
            stored=before.stored,
            now=self._stamp,
            add_outcome=partial(_with_result, run),
            called_with=self._options.called_with,
        ):
            self._reporter.stage("replay", before.total, done=before.total - before.waiting, gauges=run.gauges)
            await deliver_plan(run)

    async def _uncertain(self, ledger: Ledger, api: SpectronApi, summary: ReplaySummary) -> Uncertainties | None:
        """Ask what Spectron is unsure about, once a run by itself has sent something and was not stopped."""
        if self._changes is not None or not summary.written or self._interrupted or summary.stopped:
            return None
        found = await read_uncertainties(api, [ledger], self._mapping.id_label, now=self._stamp())
        keep_uncertainties(self._state, found)
        return found

    def _left_out(self) -> Mapping[str, int]:
        """Rows with content that the dump left out; one shard counts them, and only where nothing is filtered."""
        options = self._options
        is_counted = not options.filters and (options.shard is None or options.shard.number == 0)
        return self._dump.manifest.left_out if is_counted else {}

    def _refuse_expiry(self, ledger: Ledger, number: int) -> None:
        """Refuse extraction in batches: a batch carries no category and no time, so its facts may expire in a week."""
        full = batches.count_full(ledger, number)
        if full and self._mapping.write == "batch" and not self._options.accept_expiry:
            raise InputError(
                f"the mapping says `write: batch`, and {full} memories are to be extracted (`infer: full`):"
                " their facts would lose time and category, and may expire after 7 days",
                hint="use `write: facts`, or `infer: none` for them, or accept it with --accept-expiry",
            )

    async def _check_server(self, ledger: Ledger, api: SpectronApi, number: int, sharding: Sharding | None) -> str:
        """Check that the plan may be written, and mark the server; returns whose key it is."""
        checking = check_server(
            ledger,
            api,
            self._mapping,
            plan=number,
            marker=self._marker,
            into_existing=self._options.into_existing or self._options.adopt,
            applications_write=self._others_write() or self._options.adopt,
            retry_refused=self._options.retry_failed,
            now=self._stamp(),
            warn=self._reporter.warn,
            shards=sharding,
        )
        return (await self._read_unless_interrupted(checking)).principal

    async def _adopt(self, ledger: Ledger, api: SpectronApi) -> Adopted | None:
        """Look on the server for what another ledger may have sent; None where there is no such fact."""
        if not self._options.adopt and not is_due(ledger):
            return None
        if self._options.adopt:
            self._reporter.info(str(adoption_cost(ledger, self._mapping.session_size)))
        settings = AdoptionSettings(
            session_size=self._mapping.session_size,
            read_at=self._dump.began,
            applications_write=self._others_write(),
            in_flight=self._options.max_in_flight,
        )
        began = self._clock()
        brake = Brake(self._sleep, clock=self._clock, max_seconds=self._options.max_seconds)
        limiter = Limiter(
            max_in_flight=self._options.max_in_flight,
            max_rps=self._options.max_rps,
            clock=self._clock,
            sleep=brake.sleep,
        )
        looking = adopt(
            ledger,
            api,
            settings,
            everything=self._options.adopt,
            limiter=limiter,
            brake=brake,
            reporter=self._reporter,
            now=self._now,
        )
        try:
            return await self._read_unless_interrupted(looking)
        finally:
            self._adopting_s = self._clock() - began

    async def _read_unless_interrupted(self, reading: Coroutine[Any, Any, T]) -> T:
        """Await requests that write no memory; a signal cancels them, because running again repeats them."""
        self._raise_if_interrupted()
        task: asyncio.Task[T] = asyncio.ensure_future(reading)
        self._reading = task
        try:
            return await task
        except asyncio.CancelledError:
            self._raise_if_interrupted()
            raise
        finally:
            self._reading = None

    def _begin(self, ledger: Ledger, api: SpectronApi, number: int, *, principal: str) -> Run:
        options = self._options
        self._run = begin_run(
            ledger,
            number,
            api,
            self._mapping,
            principal=principal,
            limits=Limits(
                max_in_flight=options.max_in_flight,
                max_rps=options.max_rps,
                max_facts=options.limit,
                max_seconds=None if options.max_seconds is None else options.max_seconds - self._adopting_s,
                max_tokens=options.max_tokens,
                known=runs.known_in_flight(ledger),
            ),
            batches=self._mapping.write == "batch",
            deferred=self._deferred,
            own=self._marker.own_work(ledger, self._stamp()),
            applications_write=self._others_write() or self._options.adopt,
            reporter=self._reporter,
            clock=self._clock,
            now=self._now,
            sleep=self._sleep,
        )
        return self._run

    def _resolve(self, ledger: Ledger) -> None:
        """Keep the decisions of a person; raises InputError naming every memory that is not undecidable."""
        with ledger.transaction():
            wrong = [
                why
                for named, answer in self._options.resolve.items()
                if (why := decisions.resolve(ledger, named, present=answer == "present", now=self._stamp()))
            ]
            if wrong:
                raise InputError.of_all(wrong, hint="spectron-migrate status lists the undecidable memories")

    def _others_write(self) -> bool:
        # After `complete` applications write to Spectron, and what they write is newer than anything in Mem0.
        return not self._options.supersede or read_journal(self._root).state.phase == "complete"

    def _counts_deletions(self) -> bool:
        # Once sealed, Mem0 is left: emptying it must not hide in Spectron what applications read there.
        return not read_journal(self._root).state.sealed

    def _raise_if_interrupted(self) -> None:
        if self._interrupted is not None:
            raise Interrupted(
                "interrupted before anything was sent",
                hint="run it again",
                sigterm=self._interrupted == ExitCode.SIGTERM,
            )

    def _stamp(self) -> str:
        return format_time(self._now())


def _with_result(run: Run, noted: runs.LastRun) -> runs.LastRun:
    """The note of a run, for `status`, with what it did."""
    return replace(
        noted,
        written=run.counters.written,
        requests=run.api.wire.requests,
        retries=run.counters.retries,
        stopped=why_stopped(run),
        in_flight=run.limiter.limit,
    )
