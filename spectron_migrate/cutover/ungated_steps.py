"""Steps of a cutover that need no gate to pass: start, revert, abort, and shifts that only move reads back to Mem0.

They read nothing but the state directory. A broken settings file, an unreachable server or a locked ledger cannot
prevent reads from going back to Mem0.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from spectron_migrate.cutover.phases import Command, StepResult, describe_reads, require_legal
from spectron_migrate.errors import InputError, NotConfirmed
from spectron_migrate.records import counted
from spectron_migrate.reporter import Reporter
from spectron_migrate.state import processes
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.journal import StepConflict, record_step
from spectron_migrate.state.routing import CatchUp
from spectron_migrate.state.store import StateStore, store_at

PROCESSES_PATIENCE_S = 30.0
PROCESSES_POLL_S = 0.2
"""How long a start with `outbox` waits for the application's processes, and how often it looks."""


def start(
    store: Path | StateStore,
    migration: str,
    catch_up: CatchUp,
    *,
    now: str,
    who: str,
    why: str = "",
    reporter: Reporter,
    sleep: Callable[[float], None] = time.sleep,
) -> StepResult:
    """Begin a cutover: from now on, what is written to Mem0 is brought to Spectron too.

    With `outbox`, waits until every process that uses the adapter captures its writes. Raises NotLegal, and
    InputError for `outbox` if processes on other hosts use the state directory.
    """
    if catch_up == "outbox":
        _refuse_other_hosts(store)
    state = require_legal(store, "start", now=now, reporter=reporter)
    if state.phase == "started":
        return StepResult(state, note=f"the cutover had already begun, at {state.fence}; nothing was changed")
    step = Step("start", now, who, why, migration=migration, catch_up=catch_up)
    state = record_step(store, step, decided_in=state)
    if catch_up == "outbox":
        _wait_for_processes(store, state.epoch, reporter, sleep)
    reporter.info(
        "what you give up: `erase` is refused until `cutover abort`, and for good once a read was shifted to Spectron"
    )
    return StepResult(state, note="the cutover began; everything is read from Mem0 as before")


def revert(store: Path | StateStore, *, now: str, who: str, why: str = "", reporter: Reporter) -> StepResult:
    """Send all reads to Mem0 at once. Catching up goes on, so reads can be shifted again. Raises NotLegal."""
    state = _step_back(store, "revert", Step("revert", now, who, why), reporter)
    return StepResult(state, note="everything is read from Mem0; catching up goes on")


def abort(store: Path | StateStore, *, yes: bool, now: str, who: str, why: str = "", reporter: Reporter) -> StepResult:
    """End the cutover: reads go to Mem0 and catching up stops. Raises NotLegal, NotConfirmed."""
    require_legal(store, "abort", now=now, reporter=reporter)
    if not yes:
        raise NotConfirmed("the cutover was not aborted", hint="spectron-migrate cutover abort --yes")
    state = _step_back(store, "abort", Step("abort", now, who, why), reporter)
    erase = (
        "it cannot be erased, because reads were shifted to Spectron"
        if state.ever_shifted is not None
        else "spectron-migrate erase removes it, scope by scope"
    )
    reporter.info(f"what was written stays in Spectron, and nothing reads it; {erase}")
    return StepResult(state, note="the cutover ended; everything is read from Mem0, and catching up has stopped")


def _step_back(store: Path | StateStore, command: Command, step: Step, reporter: Reporter) -> CutoverState:
    """Record a step that moves reads to Mem0. If another step was recorded first, try again while this one is legal."""
    while True:
        state = require_legal(store, command, now=step.at, reporter=reporter)
        with suppress(StepConflict):
            return record_step(store, step, decided_in=state)


def shift_step(percent: float, users: Sequence[str], *, now: str, who: str, why: str = "") -> Step:
    """The journal step of `cutover shift`. Raises InputError for a percentage that is out of range or too fine."""
    if not 0 <= percent <= 100 or round(percent, 2) != percent:
        raise InputError(f"the share of users is {percent:g}, it must be 0 to 100 with at most two decimals")
    if not users:
        return Step("shift", now, who, why, percent=percent)
    if percent not in (0, 100):
        raise InputError(
            f"a single user is read from Spectron (100) or from Mem0 (0), not {percent:g} %",
            hint="spectron-migrate cutover shift 100 --user ID",
        )
    spectron, mem0 = (tuple(users), ()) if percent else ((), tuple(users))
    return Step("pin", now, who, why, spectron=spectron, mem0=mem0)


def shift_back(store: Path | StateStore, step: Step, *, reporter: Reporter) -> StepResult | None:
    """Record the shift if it moves nobody to Spectron. Otherwise change nothing and return None: it needs the gates."""
    state = require_legal(store, "shift", now=step.at, reporter=reporter)
    after = state.after(step)
    moves_somebody_to_spectron = (
        after.percent > state.percent
        or after.pinned_to_spectron - state.pinned_to_spectron
        or state.pinned_to_mem0 - after.pinned_to_mem0
    )
    if moves_somebody_to_spectron:
        return None
    return StepResult(record_step(store, step, decided_in=state), note=describe_reads(after))


def _refuse_other_hosts(store: Path | StateStore) -> None:
    if store_at(store).folder is None:
        return  # with the state in a database, one outbox takes the calls of all hosts
    others = processes.read_processes(store).other_hosts(socket.gethostname())
    if others:
        raise InputError(
            f"`cutover.catch_up` is outbox, but processes on {', '.join(others)} use {store} too",
            hint="an outbox in a directory belongs to one host; with the state in Postgres, or with `follow`, any"
            " number of hosts may write",
        )


def _wait_for_processes(
    store: Path | StateStore, epoch: int, reporter: Reporter, sleep: Callable[[float], None]
) -> None:
    """Wait until no live process runs a write that it does not capture.

    The next reconciliation finds what is missed here.
    """
    waited = 0.0
    while late := processes.read_processes(store).not_on(epoch):
        if waited >= PROCESSES_PATIENCE_S:
            pids = ", ".join(str(each.pid) for each in late[:10])
            who = counted(len(late), "process does", "processes do")
            reporter.warn(f"{who} not capture writes yet: {pids}; the next reconcile finds what they write")
            return
        sleep(PROCESSES_POLL_S)
        waited += PROCESSES_POLL_S
