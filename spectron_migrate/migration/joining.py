"""How a replay joins others that deliver from the same ledger, and how it reconnects to a ledger that it lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectron_migrate.database.interface import Database
from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.delivery.preflight import refuse_half_adopted
from spectron_migrate.errors import InputError, LedgerLocked, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, plan, runs, sessions
from spectron_migrate.mapping import ScopeMapping
from spectron_migrate.migration.planning_warnings import refuse_half_erased
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Json
from spectron_migrate.reporter import Reporter
from spectron_migrate.spectron.api import Sleep
from spectron_migrate.state.store import StateStore

if TYPE_CHECKING:
    from spectron_migrate.ledger.workers import Workers

ASK_AGAIN_S = 0.2
LOST_LIMIT_S = 60.0
"""How long a replay that lost the ledger tries to reach it again."""


async def open_ledger(
    state: Path | PostgresLocation | StateStore,
    *,
    lost: Database | None = None,
    reporter: Reporter,
    check_interrupted: Callable[[], None],
    sleep: Sleep,
) -> Ledger:
    """Open the ledger as its only writer, or as one of several; waits while another process plans.

    Raises LedgerLocked if another command writes it.
    """
    ledger = await asyncio.to_thread(Ledger.open_for_delivery, state, lost=lost)
    workers = ledger.workers
    if workers is None:
        return ledger
    try:
        is_announced = False
        while not workers.try_join():
            if not is_announced:
                reporter.info(f"waiting for {workers.planner()} to finish planning")
                is_announced = True
            check_interrupted()
            await sleep(ASK_AGAIN_S)
    except BaseException:
        ledger.close()
        raise
    return ledger


def begin_together(ledger: Ledger, workers: Workers, options: ReplayOptions) -> None:
    """Begin a run that others may join: nobody plans again until all of them have ended."""
    workers.prepare()
    workers.set_terms(options.terms, sends=options.limit, tokens=options.max_tokens)
    with ledger.transaction():
        sessions.orphan_openings(ledger)
    runs.forget_runs(ledger)
    workers.let_others_join()


async def open_again(
    lost: Ledger,
    number: int,
    terms: Mapping[str, Json],
    *,
    reporter: Reporter,
    check_interrupted: Callable[[], None],
    sleep: Sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Ledger:
    """Reopen a ledger whose connection was lost, to go on with this plan.

    What was in flight is in doubt; the process that takes its lane first decides it. Raises Unreachable after a minute,
    InputError if the database has forgotten something, LedgerLocked if another plan was made in the meantime, and
    NotLegal or WrongLedger if another command began something that must be finished first.
    """
    began = clock()
    reporter.warn(f"the connection to {lost.path} was lost: trying to reach it again")
    while True:
        check_interrupted()
        try:
            ledger = await open_ledger(
                lost.path, lost=lost.db, reporter=reporter, check_interrupted=check_interrupted, sleep=sleep
            )
            try:
                _go_on(ledger, number, terms)
            except BaseException:
                ledger.close()
                raise
            return ledger
        except Unreachable:
            if clock() - began > LOST_LIMIT_S:
                raise
            await sleep(1.0)


def _go_on(ledger: Ledger, number: int, terms: Mapping[str, Json]) -> None:
    """Join the others again, or become the first of them."""
    workers, last = ledger.workers, plan.last_plan(ledger)
    assert workers is not None  # noqa: S101 - only a connection can be lost
    if last is None or last[0] != number:
        raise LedgerLocked("another process has made a new plan in the meantime", hint="run it again: it continues")
    workers.check_terms(terms)
    refuse_half_erased(ledger)  # anybody may have written the ledger while nobody held the lock
    refuse_half_adopted(ledger)
    if workers.is_alone:
        with ledger.transaction():
            sessions.orphan_openings(ledger)
    workers.let_others_join()


def planned_number(ledger: Ledger, mapping: ScopeMapping, *, context: str, fingerprint: str | None) -> int:
    """The number of the ledger's plan, for a process without a dump, or one that joins others.

    `fingerprint`: of the plan that this process would make; None without a dump. Raises InputError if there is no plan
    or if it was made with another mapping, WrongLedger for another context, LedgerLocked if others deliver another
    plan, and NotLegal while an erase is unfinished.
    """
    refuse_half_erased(ledger)
    migration, last = ledger.migration(), plan.last_plan(ledger)
    if migration is None or last is None:
        raise InputError(f"nothing is planned in {ledger.path}", hint="the first replay needs the dump: --dump DIR")
    if migration.context != context:
        raise WrongLedger(
            f"the ledger at {ledger.path} belongs to context {migration.context}, not {context}",
            hint="give each migration its own --state",
        )
    if fingerprint is not None and fingerprint != last[1]:
        raise LedgerLocked(
            f"other processes deliver another plan from {ledger.path}: of another dump, mapping or choice of memories",
            hint="wait until they have ended, or give this one the same dump, mapping and filters",
        )
    if migration.mapping_digest != mapping.digest:
        raise InputError(
            f"the plan in {ledger.path} was made with another mapping",
            hint="name that one, or plan again with the dump",
        )
    return last[0]
