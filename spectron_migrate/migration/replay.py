"""Replay: write what is not yet in Spectron, oldest first, exactly once; resumes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spectron_migrate.delivery.brake import Stop
from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.preflight import check_server
from spectron_migrate.delivery.review import write_review
from spectron_migrate.delivery.run import Counters, Run
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode, InputError, Interrupted
from spectron_migrate.ledger import Ledger, batches, decisions, merge, plan, runs, sessions
from spectron_migrate.ledger.read import plans
from spectron_migrate.ledger.read.plans import PlanCounts, plan_counts
from spectron_migrate.ledger.shards import Shard, refuse_outbox
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.changes import Changes
from spectron_migrate.migration.deliver import Limits, begin_run, deliver_plan
from spectron_migrate.migration.forecast import Forecast, Pace, make_forecast
from spectron_migrate.migration.planning import make_plan
from spectron_migrate.migration.sharding import Sharding, refuse_plain
from spectron_migrate.records import Filters, Json, Reporter, format_time
from spectron_migrate.spectron.api import Sleep, SpectronApi
from spectron_migrate.spectron.grants import Me
from spectron_migrate.state.journal import read_journal

_STOP_CODES = {"limit": ExitCode.LIMIT, "key": ExitCode.KEY, "unreachable": ExitCode.UNREACHABLE}


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What differs from run to run; none of it changes what is written."""

    filters: Filters = field(default_factory=Filters)
    limit: int | None = None
    retry_failed: bool = False
    resolve: Mapping[str, Literal["present", "absent"]] = field(default_factory=dict)
    """What a person found out about undecidable memories, by Mem0 id, or `ID@VERSION` where one has several."""
    into_existing: bool = False
    supersede: bool = True
    """False: others write to Spectron already, so all that is sent now comes late and supersedes nothing."""
    max_in_flight: int = 64
    max_rps: float | None = None
    max_seconds: float | None = None
    max_tokens: int | None = None
    max_refused: int = 0
    shard: Shard | None = None
    """The part of the lanes that this process takes; the others run beside it."""
    accept_expiry: bool = False
    """`write: batch` with extraction loses known times and categories; somebody said that this is accepted."""


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What became of the memories this run was about.

    `planned = written + already + refused + skipped + in_doubt + undecidable + remaining`.
    """

    migration: str
    planned: int
    written: int
    stored_not_extracted: int
    """Part of `written`: the text is there, no fact was made of it."""
    late: int
    """Part of `written`: came after newer facts of its lane, so it superseded nothing."""
    already: int
    refused: int
    skipped: int
    in_doubt: int
    undecidable: int
    remaining: int
    scopes: int
    lanes: int
    sessions: int
    requests: int
    retries: int
    tokens: int
    """What the writes cost, as the server says it, else estimated at the upper end; 0 where no limit is set."""
    orphans: int
    """Sessions, of all runs, that the server may have made without our learning of it: empty, and left alone."""
    slowed_down: str | None
    """What slowed the run down; None where nothing did."""
    review: str | None
    skipped_by_reason: dict[str, int]
    will_not_expire: list[str]
    """The first memories that would expire in Mem0 and do not in Spectron."""
    will_not_expire_count: int
    reasons: list[dict[str, Json]]
    """The first refused and undecidable memories, with the server's own words."""
    stopped: str | None
    dry_run: bool
    exit_code: ExitCode
    forecast: Forecast | None = None
    """Of a dry run: what a replay would come to."""

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        left_out = ("exit_code", "migration", "forecast")
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        return told if self.forecast is None else {**told, "forecast": self.forecast.to_json()}


class Replay:
    """One run; `interrupt` may be called from a signal handler."""

    def __init__(
        self,
        state: Path,
        dump: Dump,
        mapping: ScopeMapping,
        options: ReplayOptions,
        *,
        reporter: Reporter,
        changes: Changes | None = None,
        deferred: DeferredWork | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`changes` limits the run to what has changed; `deferred`: what earlier runs of this process left waiting."""
        self._root = state
        self._state = options.shard.folder(state) if options.shard else state
        self._dump = dump
        self._mapping = mapping
        self._options = options
        self._reporter = reporter
        self._changes = changes
        self._deferred = deferred or DeferredWork()
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._run: Run | None = None
        self._interrupted: ExitCode | None = None
        self._reading: asyncio.Task[Me] | None = None

    def interrupt(self, code: ExitCode) -> None:
        """Finish what is in flight, begin nothing more."""
        self._interrupted = code
        if self._run is not None:
            self._run.halt("signal", "interrupted")
        if self._reading is not None:
            self._reading.cancel()

    def dry_run(self, *, context: str) -> ReplaySummary:
        """Plan on a copy of the ledger and forecast the replay: needs no server and leaves no trace.

        Without a context (`""`) the ledger's own is meant.
        """
        with ExitStack() as open_things:
            ledger = open_things.enter_context(Ledger.scratch_copy(self._state))
            known = ledger.migration()
            context = context or (known.context if known else "")
            planned = make_plan(
                ledger,
                self._dump,
                self._mapping,
                self._options.filters,
                context=context,
                now=self._stamp(),
                reporter=self._reporter,
                go_on=self._go_on,
                sharding=self._join(context, open_things, dry_run=True),
            )
            with ledger.transaction():
                if self._options.retry_failed:
                    decisions.retry_refused(ledger, planned.id)
                plan.mark_late(ledger, planned.id)
                self._refuse_expiry(ledger, planned.id)
            summary = self._summary(ledger, planned.id, before=plan_counts(ledger, planned.id), dry_run=True)
            pace = Pace.of(self._root, context, self._options.max_in_flight, self._options.max_rps)
            forecast = make_forecast(ledger, planned.id, self._dump, self._mapping, pace, reporter=self._reporter)
            return replace(summary, forecast=forecast)

    def _join(self, context: str, open_things: ExitStack, *, dry_run: bool) -> Sharding | None:
        """Take part in the plan of all shards, where this is one."""
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
        """Plan, check the ground, send.

        Raises MigrateError before anything is sent, and NotLegal where the server opens sessions in other scopes.
        """
        with ExitStack() as open_things:
            sharding = self._join(api.context, open_things, dry_run=False)
            ledger = open_things.enter_context(Ledger.open_for_writing(self._state))
            # In a thread, so that a signal is heard while a large dump is merged.
            planned = await asyncio.to_thread(
                make_plan,
                ledger,
                self._dump,
                self._mapping,
                self._options.filters,
                context=api.context,
                now=self._stamp(),
                reporter=self._reporter,
                go_on=self._go_on,
                sharding=sharding,
                changes=self._changes,
            )
            self._resolve(ledger)
            me = await self._unless_interrupted(
                check_server(
                    ledger,
                    api,
                    plan=planned.id,
                    into_existing=self._options.into_existing,
                    now=self._stamp(),
                    first_listing=partial(sharding.first_listing, ledger=ledger) if sharding else None,
                )
            )
            with ledger.transaction():
                if self._options.retry_failed:
                    decisions.retry_refused(ledger, planned.id)
                late = plan.mark_late(ledger, planned.id, everything=self._others_write())
                self._refuse_expiry(ledger, planned.id)
            if late:
                self._reporter.warn(
                    f"{late} memories come late: newer facts of their scopes are there already, so they go in without"
                    " superseding anything"
                )
            before = plan_counts(ledger, planned.id)
            run = self._begin(ledger, api, planned.id, principal=me.principal)
            if self._interrupted is None:
                told = partial(_told, run)
                with runs.noted(ledger, plan=planned.id, stored=before.stored, now=self._stamp, told=told):
                    self._reporter.stage("replay", before.waiting)
                    await deliver_plan(run)
            review = write_review(ledger, planned.id, self._state / "review")
            return self._summary(ledger, planned.id, before=before, run=run, review=review)

    def _refuse_expiry(self, ledger: Ledger, number: int) -> None:
        """A batch carries no category and no known time: what is extracted from it may be gone in a week."""
        full = batches.count_full(ledger, number)
        if full and self._mapping.write == "batch" and not self._options.accept_expiry:
            raise InputError(
                f"the mapping says `write: batch`, and {full} memories are to be extracted (`infer: full`):"
                " their facts would lose time and category, and may expire after 7 days",
                hint="use `write: facts`, or `infer: none` for them, or accept it with --accept-expiry",
            )

    async def _unless_interrupted(self, reading: Coroutine[Any, Any, Me]) -> Me:
        """Reading changes nothing, so a signal need not wait for what it waits for."""
        self._go_on()
        self._reading = asyncio.ensure_future(reading)
        try:
            return await self._reading
        except asyncio.CancelledError:
            self._go_on()
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
                max_seconds=options.max_seconds,
                max_tokens=options.max_tokens,
            ),
            batches=self._mapping.write == "batch",
            deferred=self._deferred,
            reporter=self._reporter,
            clock=self._clock,
            now=self._now,
            sleep=self._sleep,
        )
        return self._run

    def _summary(
        self,
        ledger: Ledger,
        number: int,
        *,
        before: PlanCounts,
        run: Run | None = None,
        review: Path | None = None,
        dry_run: bool = False,
    ) -> ReplaySummary:
        after = plan_counts(ledger, number)
        counts = after.by_state
        replaced = plans.count_replaced(ledger, number)
        skipped = plans.skipped_by_reason(ledger, number)
        if replaced:
            skipped[merge.REPLACED] = skipped.get(merge.REPLACED, 0) + replaced
        scopes, lanes = plans.scopes_and_lanes(ledger, number)
        lasting = plans.will_not_expire(ledger, number)
        migration = ledger.migration()
        counters = run.counters if run else Counters()
        return ReplaySummary(
            migration=migration.id if migration else "",
            planned=sum(counts.values()) + replaced,
            written=after.stored - before.stored,
            stored_not_extracted=after.not_extracted - before.not_extracted,
            late=after.late - before.late,
            already=before.stored,
            refused=counts.get("refused", 0),
            skipped=sum(skipped.values()),
            in_doubt=counts.get("intended", 0),
            undecidable=counts.get("undecidable", 0),
            remaining=counts.get("planned", 0),
            scopes=scopes,
            lanes=lanes,
            sessions=counters.sessions,
            requests=run.api.wire.requests if run else 0,
            retries=counters.retries,
            tokens=counters.tokens,
            orphans=sessions.count_orphans(ledger),
            slowed_down=run.limiter.summary if run else None,
            review=str(review) if review else None,
            skipped_by_reason=skipped,
            will_not_expire=lasting[: plans.LISTED],
            will_not_expire_count=len(lasting),
            reasons=[
                {"id": row.mem0_id, "state": row.state, "reason": row.reason}
                for row in plans.named_facts(ledger, number, ("refused", "undecidable"), limit=plans.LISTED)
            ],
            stopped=run.stop.reason if run and run.stop else _first(run.stopped_scopes.values()) if run else None,
            dry_run=dry_run,
            exit_code=ExitCode.DONE if dry_run else self._exit_code(counts, run),
        )

    def _exit_code(self, counts: Mapping[str, int], run: Run | None) -> ExitCode:
        """The most urgent of what happened."""
        if self._interrupted is not None:
            return self._interrupted
        stop: Stop | None = run.stop if run else None
        if stop is not None and stop.kind == "key":
            return ExitCode.KEY
        if counts.get("undecidable", 0):
            return ExitCode.REFUSED
        if counts.get("planned", 0) + counts.get("intended", 0):
            if run is not None and run.stopped_scopes:
                return ExitCode.KEY
            return _STOP_CODES[stop.kind] if stop is not None else ExitCode.UNREACHABLE
        return ExitCode.REFUSED if counts.get("refused", 0) > self._options.max_refused else ExitCode.DONE

    def _resolve(self, ledger: Ledger) -> None:
        """What a person found out about undecidable memories; raises InputError for ids that are none."""
        with ledger.transaction():
            wrong = [
                why
                for named, answer in self._options.resolve.items()
                if (why := decisions.resolve(ledger, named, present=answer == "present", now=self._stamp()))
            ]
            if wrong:
                raise InputError.of_all(wrong, hint="spectron-migrate status names those that are")

    def _others_write(self) -> bool:  # after `complete` what applications write is newer than anything of Mem0's
        return not self._options.supersede or read_journal(self._root).state.phase == "complete"

    def _go_on(self) -> None:
        if self._interrupted is not None:
            raise Interrupted(
                "interrupted before anything was sent",
                hint="run it again",
                sigterm=self._interrupted == ExitCode.SIGTERM,
            )

    def _stamp(self) -> str:
        return format_time(self._now())


def _told(run: Run, noted: runs.LastRun) -> runs.LastRun:
    """What a run did, for `status`."""
    return replace(
        noted,
        written=run.counters.written,
        requests=run.api.wire.requests,
        retries=run.counters.retries,
        stopped=run.stop.reason if run.stop else _first(run.stopped_scopes.values()),
    )


def _first(values: Iterable[str]) -> str | None:
    return next(iter(values), None)
