"""Replay: write what is not yet in Spectron, oldest first, exactly once; resumes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from spectron_migrate.delivery.engine import deliver
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.preflight import check
from spectron_migrate.delivery.run import Brake, Counters, Run, Stop
from spectron_migrate.dump import Dump
from spectron_migrate.errors import ExitCode, InputError, Interrupted
from spectron_migrate.ledger import Ledger, plan, views
from spectron_migrate.ledger.ledger import make_private_directory
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.planning import make_plan
from spectron_migrate.records import Filters, Json, Reporter, canonical_json, format_time
from spectron_migrate.spectron.api import Sleep, SpectronApi

_STOP_CODES = {"limit": ExitCode.LIMIT, "key": ExitCode.KEY, "unreachable": ExitCode.UNREACHABLE}


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What differs from run to run; none of it changes what is written."""

    filters: Filters = field(default_factory=Filters)
    limit: int | None = None
    retry_failed: bool = False
    resolve: Mapping[str, Literal["present", "absent"]] = field(default_factory=dict)
    """What a person found out about undecidable memories, by Mem0 id."""
    into_existing: bool = False
    max_in_flight: int = 64
    max_rps: float | None = None
    max_seconds: float | None = None
    max_refused: int = 0


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

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        left_out = ("exit_code", "migration")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a plan has in Spectron at one moment: the difference of two is what a run did."""

    stored: int
    not_extracted: int
    late: int

    @classmethod
    def of(cls, ledger: Ledger, number: int) -> _Standing:
        counts = views.count_by_state(ledger, number)
        not_extracted = counts.get("stored_not_extracted", 0)
        return cls(counts.get("written", 0) + not_extracted, not_extracted, views.count_late(ledger, number))


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
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Nothing happens yet. Raises InputError for a mapping that asks for what replay cannot do."""
        if mapping.write == "batch":
            raise InputError(
                "the mapping says `write: batch`, which this version does not send",
                hint="`write: facts` sends one memory a request and keeps its time and category",
            )
        self._state = state
        self._dump = dump
        self._mapping = mapping
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._run: Run | None = None
        self._interrupted: ExitCode | None = None

    def interrupt(self, code: ExitCode) -> None:
        """Finish what is in flight, begin nothing more."""
        self._interrupted = code
        if self._run is not None:
            self._run.halt("signal", "interrupted")

    def dry_run(self, *, context: str) -> ReplaySummary:
        """Plan on a copy of the ledger: needs no server and leaves no trace."""
        with Ledger.in_memory_copy(self._state) as ledger:
            planned = make_plan(
                ledger,
                self._dump,
                self._mapping,
                self._options.filters,
                context=context,
                now=self._stamp(),
                reporter=self._reporter,
            )
            with ledger.transaction():
                if self._options.retry_failed:
                    plan.retry_refused(ledger, planned.id)
                plan.mark_late(ledger, planned.id)
            return self._summary(ledger, planned.id, before=_Standing.of(ledger, planned.id), dry_run=True)

    async def run(self, api: SpectronApi) -> ReplaySummary:
        """Plan, check the ground, send.

        Raises MigrateError before anything is sent, and NotLegal where the server opens sessions in other scopes.
        """
        with Ledger.open_for_writing(self._state) as ledger:
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
            )
            self._resolve(ledger)
            me = await check(ledger, api, plan=planned.id, into_existing=self._options.into_existing, now=self._stamp())
            with ledger.transaction():
                if self._options.retry_failed:
                    plan.retry_refused(ledger, planned.id)
                late = plan.mark_late(ledger, planned.id)
            if late:
                self._reporter.warn(
                    f"{late} memories come late: newer facts of their scopes are there already, so they go in without"
                    " superseding anything"
                )
            before = _Standing.of(ledger, planned.id)
            run = self._begin(ledger, api, planned.id, principal=me.principal)
            if self._interrupted is None:
                await self._deliver(run)
            review = self._write_review(ledger, planned.id)
            return self._summary(ledger, planned.id, before=before, run=run, review=review)

    def _begin(self, ledger: Ledger, api: SpectronApi, number: int, *, principal: str) -> Run:
        options = self._options
        brake = Brake(self._sleep)
        self._run = Run(
            ledger=ledger,
            writer=GroupCommit(ledger),
            api=api,
            limiter=Limiter(
                max_in_flight=options.max_in_flight, max_rps=options.max_rps, clock=self._clock, sleep=brake.sleep
            ),
            reporter=self._reporter,
            principal=principal,
            brake=brake,
            session_size=self._mapping.session_size,
            plan=number,
            clock=self._clock,
            now=self._stamp,
            allowance=options.limit,
            deadline=None if options.max_seconds is None else self._clock() + options.max_seconds,
        )
        return self._run

    async def _deliver(self, run: Run) -> None:
        counts = views.count_by_state(run.ledger, run.plan)
        self._reporter.stage("replay", counts.get("planned", 0) + counts.get("intended", 0))
        try:
            await deliver(run, lanes_at_once=self._options.max_in_flight)
        finally:
            await run.writer.close()
        if run.failure is not None:
            raise run.failure
        if run.allowance == 0:
            run.halt("limit", "the number of memories that was set is reached")

    def _write_review(self, ledger: Ledger, number: int) -> Path | None:
        """Every refused or undecidable memory, with the server's words and the memory itself, for a person."""
        folder = self._state / "review"
        path = folder / "refused.jsonl"
        rows = list(views.named(ledger, number, ("refused", "undecidable")))
        if not rows:
            with suppress(FileNotFoundError):
                path.unlink()
            return None
        make_private_directory(folder)
        pending = folder / ".refused.jsonl.new"
        pending.touch(mode=0o600)
        with pending.open("w", encoding="utf-8") as lines:
            for row in rows:
                memory = views.memory_of(ledger, row.mem0_id)
                record = memory.to_json() if memory else None
                told = {"id": row.mem0_id, "version": row.version, "state": row.state, "reason": row.reason}
                lines.write(canonical_json({**told, "memory": record}) + "\n")
        pending.replace(path)
        return path

    def _summary(
        self,
        ledger: Ledger,
        number: int,
        *,
        before: _Standing,
        run: Run | None = None,
        review: Path | None = None,
        dry_run: bool = False,
    ) -> ReplaySummary:
        counts = views.count_by_state(ledger, number)
        after = _Standing.of(ledger, number)
        replaced = views.count_replaced(ledger, number)
        skipped = views.skipped_by_reason(ledger, number)
        if replaced:
            skipped[plan.REPLACED] = skipped.get(plan.REPLACED, 0) + replaced
        scopes, lanes = views.scopes_and_lanes(ledger, number)
        lasting = views.will_not_expire(ledger, number)
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
            review=str(review) if review else None,
            skipped_by_reason=skipped,
            will_not_expire=lasting[: views.LISTED],
            will_not_expire_count=len(lasting),
            reasons=[
                {"id": row.mem0_id, "state": row.state, "reason": row.reason}
                for row in views.named(ledger, number, ("refused", "undecidable"), limit=views.LISTED)
            ],
            stopped=run.stop.reason if run and run.stop else _first(run.stopped_scopes.values()) if run else None,
            dry_run=dry_run,
            exit_code=ExitCode.DONE if dry_run else self._exit_code(counts, run),
        )

    def _exit_code(self, counts: dict[str, int], run: Run | None) -> ExitCode:
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
        wrong = []
        with ledger.transaction():
            for mem0_id, answer in self._options.resolve.items():
                if not plan.resolve(ledger, mem0_id, present=answer == "present", now=self._stamp()):
                    wrong.append(f"memory {mem0_id} is not undecidable")
            if wrong:
                raise InputError.of_all(wrong, hint="spectron-migrate status names those that are")

    def _go_on(self) -> None:
        if self._interrupted is not None:
            raise Interrupted(
                "interrupted while planning, nothing was written",
                hint="run it again",
                sigterm=self._interrupted == ExitCode.SIGTERM,
            )

    def _stamp(self) -> str:
        return format_time(self._now())


def _first(values: Iterable[str]) -> str | None:
    return next(iter(values), None)
