"""Deliver a plan of the ledger to Spectron, whether it was made from a dump, from changes or from the outbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from spectron_migrate.delivery.brake import Brake
from spectron_migrate.delivery.budget import Budget, OwnBudget, SharedBudget, SharedPace
from spectron_migrate.delivery.deferred import DeferredWork
from spectron_migrate.delivery.limiter import Limiter
from spectron_migrate.delivery.own_work import OwnWork
from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.scheduler import deliver_lanes
from spectron_migrate.ledger import Ledger, sessions
from spectron_migrate.ledger.writer import GroupCommit
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.records import format_time
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import Sleep, SpectronApi


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one run may send, and how fast; None sets no limit."""

    max_in_flight: int = 64
    max_rps: float | None = None
    max_facts: int | None = None
    max_seconds: float | None = None
    max_tokens: int | None = None
    known: float | None = None
    """How many requests in flight the server is known to allow. With None, the run begins with a few."""


def begin_run(
    ledger: Ledger,
    plan: int,
    api: SpectronApi,
    mapping: ScopeMapping,
    *,
    principal: str,
    limits: Limits,
    batches: bool = False,
    deferred: DeferredWork,
    own: OwnWork,
    applications_write: bool = False,
    everything_is_late: bool = False,
    reporter: Reporter,
    clock: Callable[[], float],
    now: Callable[[], datetime],
    sleep: Sleep,
) -> Run:
    """A run that sends what is left of the plan.

    `deliver_plan` carries it out, `Run.halt` stops it. `batches`: send many memories in one request. `own`: what this
    process has begun; `applications_write`: they write to the same scopes; `everything_is_late`: nothing may supersede
    what they wrote. `clock` in seconds, monotonic; `now` with its zone. `limits.max_seconds` counts from this call.
    """
    brake = Brake(sleep, clock=clock, max_seconds=limits.max_seconds, idle_limit_s=deferred.idle_limit_s)
    writer = GroupCommit(ledger)
    is_shared = ledger.workers is not None
    pace = SharedPace(writer, limits.max_rps, clock=clock, sleep=brake.sleep) if is_shared and limits.max_rps else None
    limiter = Limiter(
        max_in_flight=limits.max_in_flight,
        max_rps=None if is_shared else limits.max_rps,
        known=limits.known,
        clock=clock,
        sleep=brake.sleep,
        turn=pace.wait if pace is not None else None,
    )
    budget: Budget = (
        SharedBudget(writer, sends=limits.max_facts is not None, tokens=limits.max_tokens is not None)
        if is_shared
        else OwnBudget(limits.max_facts, limits.max_tokens)
    )
    return Run(
        ledger=ledger,
        writer=writer,
        api=api,
        limiter=limiter,
        reporter=reporter,
        principal=principal,
        brake=brake,
        session_size=mapping.session_size,
        plan=plan,
        clock=clock,
        now=lambda: format_time(now()),
        budget=budget,
        max_tokens=limits.max_tokens,
        batches=batches,
        deferred=deferred,
        own=own,
        applications_write=applications_write,
        everything_is_late=everything_is_late,
    )


async def deliver_plan(run: Run) -> None:
    """Send everything that is left of the run's plan; `run.stop` and the ledger show what was not sent.

    Raises MigrateError if the ledger cannot be written, and the error that made the run fail.
    """
    try:
        await deliver_lanes(run)
    finally:
        for path, created in run.own.take_registered().items():
            run.writer.post(sessions.scope_registered, path, created_by_us=created)
        await run.writer.close()
        run.deferred.written_before += run.counters.written
    if run.failure is not None:
        raise run.failure
    if run.budget.close(run.ledger, run.counters.tokens):
        run.halt("limit", "the limit on memories was reached")
