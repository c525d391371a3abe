"""Replay: write to Spectron what is not there yet, oldest first, exactly once; a second run resumes the first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spectron_migrate.delivery.brake import Brake
from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.delivery.preflight import check_joined, check_server
from spectron_migrate.delivery.review import write_review
from spectron_migrate.delivery.run import Counters, Run
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode, InputError, Interrupted, Unreachable
from spectron_migrate.ledger import Ledger, decisions, plan, runs
from spectron_migrate.ledger.read import adoption
from spectron_migrate.ledger.read.plans import PlanCounts, plan_counts
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.changes import Changes
from spectron_migrate.migration.completion_marker import learn_in_replay, scopes_to_look_in
from spectron_migrate.migration.deliver import Limits, begin_run, deliver_plan
from spectron_migrate.migration.joining import begin_together, open_again, open_ledger, planned_number
from spectron_migrate.migration.planning import fingerprint_of, make_plan
from spectron_migrate.migration.replay_options import ReplayOptions, refuse_expiry
from spectron_migrate.migration.replay_summary import ReplaySummary, summarize, with_result
from spectron_migrate.records import counted, format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.store import StateStore, store_at
from spectron_migrate.state.uncertain import Uncertainties, keep_uncertainties

if TYPE_CHECKING:
    from spectron_migrate.ledger.workers import Workers
    from spectron_migrate.migration.adoption_run import Adopted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Start:
    """What a run begins with."""

    plan: int
    before: PlanCounts
    principal: str
    may_send: bool
    adopted: Adopted | None
    in_flight: float | None
    """How many requests in flight the server allowed when the last run ended."""


class Replay:
    """One run; `interrupt` may be called from a signal handler."""

    def __init__(
        self,
        state: Path | StateStore,
        dump: Dump | None,
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
        """`dump`: None to deliver what is planned. `changes` limits the run to what has changed.

        `deferred`: what earlier rounds of this process left waiting; `marker`: that of these rounds.
        """
        self._state = store_at(state)
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
        self._spent_s = 0.0
        """Time that an adoption took, and deliveries before the ledger was lost. It counts towards `max_seconds`."""
        self._interrupted: ExitCode | None = None
        self._reading: asyncio.Task[Any] | None = None

    def interrupt(self, code: ExitCode) -> None:
        """Begin nothing new, and let requests in flight finish."""
        self._interrupted = code
        if self._run is not None:
            self._run.halt("signal", "interrupted")
        if self._reading is not None:
            self._reading.cancel()

    async def run(self, api: SpectronApi) -> ReplaySummary:
        """Plan, check the server, send. If other processes deliver from the same ledger, join them.

        Raises MigrateError before anything is sent, and NotLegal if the server opens sessions in other scopes.
        """
        with ExitStack() as open_things:
            ledger = open_things.enter_context(await self._open())
            if ledger.workers is not None and not ledger.workers.is_alone:
                start = await self._join_others(ledger, ledger.workers, api)
            else:
                start = await self._begin_alone(ledger, api)
            run = self._begin(ledger, api, start)
            if not start.may_send:
                run.halt("limit", "the time limit was reached, and not everything was looked for; nothing was sent")
            elif self._interrupted is None:
                ledger, run = await self._deliver_to_the_end(ledger, run, start, api, open_things)
            review = write_review(ledger, start.plan, self._state)
            summary = summarize(
                ledger,
                start.plan,
                before=start.before,
                run=run,
                review=review,
                max_refused=self._options.max_refused,
                interrupted=self._interrupted,
                left_out=self._left_out(),
                adopted=start.adopted,
            )
            return replace(summary, uncertain=await self._uncertain(ledger, api, summary))

    async def _open(self) -> Ledger:
        """Open the ledger. A follower plans by itself, so nobody else may deliver meanwhile."""
        if self._changes is not None:
            return Ledger.open_for_writing(self._state)
        return await open_ledger(
            self._state, reporter=self._reporter, check_interrupted=self._raise_if_interrupted, sleep=self._sleep
        )

    async def _begin_alone(self, ledger: Ledger, api: SpectronApi) -> _Start:
        """Plan, record what a person has decided, and check the server, while nobody else writes the ledger."""
        listed = await self._read_unless_interrupted(scopes_to_look_in(self._state, api, self._marker))
        known = (self._state, ledger, self._mapping, self._marker, listed)
        learn = partial(learn_in_replay, *known, adopts=self._options.adopt, reporter=self._reporter)
        # Before the plan: once the cutover is complete, memories that are gone from Mem0 do not count as deleted.
        learn(now=self._stamp())
        # In a thread, so that a signal is handled while a large dump is merged.
        number = await asyncio.to_thread(self._plan, ledger, context=api.context)
        learn(now=self._stamp())  # a ledger has no name before its first plan
        decisions.resolve_all(ledger, self._options.resolve, now=self._stamp())
        adopted = await self._adopt(ledger, api)
        may_send = adopted is None or adopted.finished
        principal = await self._check_server(ledger, api, number) if may_send else ""
        self._mark_late(ledger, number)
        in_flight = runs.known_in_flight(ledger)
        if ledger.workers is not None:
            begin_together(ledger, ledger.workers, self._options)
        return _Start(number, plan_counts(ledger, number), principal, may_send, adopted, in_flight)

    async def _join_others(self, ledger: Ledger, workers: Workers, api: SpectronApi) -> _Start:
        """Join a run that others have planned; they have checked the server and marked it."""
        workers.check_terms(self._options.terms)
        dump = self._planned_from if self._options.filters else self._dump
        fingerprint = None if dump is None else fingerprint_of(dump, self._mapping, self._options.filters)
        number = planned_number(ledger, self._mapping, context=api.context, fingerprint=fingerprint)
        workers.let_others_join()
        me = await self._read_unless_interrupted(check_joined(ledger, api))
        self._reporter.info("joined others that deliver from this ledger")
        return _Start(number, plan_counts(ledger, number), me.principal, True, None, runs.known_in_flight(ledger))

    async def _deliver_to_the_end(
        self, ledger: Ledger, run: Run, start: _Start, api: SpectronApi, open_things: ExitStack
    ) -> tuple[Ledger, Run]:
        """Deliver. If the connection to the ledger is lost, reconnect and continue. Returns the last ledger and run."""
        done = Counters()
        while True:
            began = self._clock()
            try:
                await self._deliver(ledger, run, start.before)
            except Unreachable:
                if ledger.workers is None or not ledger.is_lost:
                    raise
            self._spent_s += self._clock() - began
            done.add(run.counters)
            if ledger.workers is None or not ledger.is_lost:
                run.counters = done
                return ledger, run
            ledger = open_things.enter_context(
                await open_again(
                    ledger,
                    start.plan,
                    self._options.terms,
                    reporter=self._reporter,
                    check_interrupted=partial(
                        self._raise_if_interrupted, "interrupted while it tried to reach the ledger again"
                    ),
                    sleep=self._sleep,
                )
            )
            self._marker.forget_sessions(ledger, now=self._stamp())
            run = self._begin(ledger, api, start)

    def _plan(self, ledger: Ledger, *, context: str) -> int:
        """Merge the dump into the ledger; returns the plan's number. Without a dump, the existing plan is used."""
        if self._dump is None and not self._options.filters and not self._options.choices:
            return planned_number(ledger, self._mapping, context=context, fingerprint=None)
        return make_plan(
            ledger,
            self._planned_from,
            self._mapping,
            self._options.filters,
            context=context,
            now=self._stamp(),
            reporter=self._reporter,
            check_interrupted=self._raise_if_interrupted,
            changes=self._changes,
            deletions=self._counts_deletions(),
            choices=self._options.choices,
        ).id

    def _mark_late(self, ledger: Ledger, number: int) -> None:
        """Mark the facts that come too late to supersede anything, also refused ones that are retried; say how many."""
        with ledger.transaction():
            if self._options.retry_failed:
                decisions.retry_refused(ledger, number)
            late = plan.mark_late(ledger, number, everything=self._others_write())
            refuse_expiry(ledger, number, self._mapping, self._options)
        if late:
            self._reporter.warn(
                f"{counted(late, 'memory is', 'memories are')} late: Spectron already has newer facts of the same"
                " scope; what is late is written without superseding anything"
            )

    async def _deliver(self, ledger: Ledger, run: Run, before: PlanCounts) -> None:
        """Send, and record the run for `status`."""
        with runs.record_run(
            ledger,
            plan=run.plan,
            stored=before.stored,
            now=self._stamp,
            add_outcome=partial(with_result, run),
            called_with=self._options.called_with,
        ):
            self._reporter.stage("replay", before.total, done=before.total - before.waiting, gauges=run.gauges)
            await deliver_plan(run)

    async def _uncertain(self, ledger: Ledger, api: SpectronApi, summary: ReplaySummary) -> Uncertainties | None:
        """Ask what Spectron is unsure about, after a plain replay that sent something and was not stopped."""
        if self._changes is not None or not summary.written or self._interrupted or summary.stopped:
            return None
        from spectron_migrate.delivery.uncertain import read_uncertainties  # a run that sends nothing does without it

        found = await read_uncertainties(api, ledger, self._mapping.id_label, now=self._stamp())
        keep_uncertainties(self._state, found)
        return found

    def _left_out(self) -> Mapping[str, int]:
        """Rows with content that the dump left out. They are counted only if nothing is filtered."""
        return self._dump.manifest.left_out if not self._options.filters and self._dump is not None else {}

    async def _check_server(self, ledger: Ledger, api: SpectronApi, number: int) -> str:
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
            ahead=self._options.scopes_ahead,
            now=self._stamp(),
            warn=self._reporter.warn,
        )
        with runs.note_refusal(ledger, now=self._stamp):
            return (await self._read_unless_interrupted(checking)).principal

    async def _adopt(self, ledger: Ledger, api: SpectronApi) -> Adopted | None:
        """Look on the server for what another ledger may have sent; None if there is no such fact."""
        options = self._options
        if not options.adopt and not adoption.is_due(ledger):
            return None
        from spectron_migrate.migration.adopt import adopt, adoption_cost  # most runs need none of these imports
        from spectron_migrate.migration.adoption_run import AdoptionSettings

        if options.adopt:
            self._reporter.info(str(adoption_cost(ledger, self._mapping.session_size)))
        settings = AdoptionSettings(
            session_size=self._mapping.session_size,
            read_at=self._planned_from.began,
            applications_write=self._others_write(),
            in_flight=options.max_in_flight,
        )
        began = self._clock()
        brake, most = Brake(self._sleep, clock=self._clock, max_seconds=options.max_seconds), options.max_in_flight
        limiter = Limiter(max_in_flight=most, max_rps=options.max_rps, clock=self._clock, sleep=brake.sleep)
        known = (ledger, api, settings)
        looking = adopt(
            *known, everything=options.adopt, limiter=limiter, brake=brake, reporter=self._reporter, now=self._now
        )
        try:
            return await self._read_unless_interrupted(looking)
        finally:
            self._spent_s += self._clock() - began

    async def _read_unless_interrupted(self, reading: Coroutine[Any, Any, T]) -> T:
        """Await requests that write no memory. A signal cancels them, because the next run repeats them."""
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

    def _begin(self, ledger: Ledger, api: SpectronApi, start: _Start) -> Run:
        self._run = begin_run(
            ledger,
            start.plan,
            api,
            self._mapping,
            principal=start.principal,
            limits=Limits(
                max_in_flight=self._options.max_in_flight,
                max_rps=self._options.max_rps,
                max_facts=self._options.limit,
                max_seconds=None if self._options.max_seconds is None else self._options.max_seconds - self._spent_s,
                max_tokens=self._options.max_tokens,
                known=start.in_flight,
            ),
            batches=self._mapping.write == "batch",
            deferred=self._deferred,
            own=self._marker.own_work(ledger, self._stamp()),
            applications_write=self._others_write() or self._options.adopt,
            everything_is_late=self._others_write(),
            reporter=self._reporter,
            clock=self._clock,
            now=self._now,
            sleep=self._sleep,
        )
        return self._run

    @property
    def _planned_from(self) -> Dump:
        if self._dump is None:
            raise InputError("there is no dump to plan from", hint="name it: --dump DIR")
        return self._dump

    def _others_write(self) -> bool:
        # After `complete` applications write to Spectron, and what they write is newer than anything in Mem0.
        return not self._options.supersede or read_journal(self._state).state.phase == "complete"

    def _counts_deletions(self) -> bool:
        # Once the cutover is sealed, Mem0 is no longer used. If somebody empties it, nothing in Spectron may be hidden.
        return not read_journal(self._state).state.sealed

    def _raise_if_interrupted(self, message: str = "interrupted before anything was sent") -> None:
        if self._interrupted is not None:
            raise Interrupted(
                message,
                hint="run it again",
                sigterm=self._interrupted == ExitCode.SIGTERM,
            )

    def _stamp(self) -> str:
        return format_time(self._now())
