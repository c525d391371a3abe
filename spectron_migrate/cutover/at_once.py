"""The phases of a cutover, and the steps that are taken at once.

    mem0 --start--> started --shift--> shift --complete--> closing --> complete
              ^        ^ |               | ^                  |
              |        | +---- shift ----+ +------ shift -----+
              |        +--- revert, from shift and closing ---+
              +------- abort, from started, shift and closing

Back to Mem0 reads go at once, without a question and without anything that could be missing: no mapping, no server,
no ledger is looked at here. `complete` is the one way out of which no way leads back.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spectron_migrate.errors import ExitCode, InputError, NotConfirmed, NotLegal
from spectron_migrate.ledger.shards import refuse_outbox
from spectron_migrate.records import Json, Reporter, counted
from spectron_migrate.state import processes
from spectron_migrate.state.journal import (
    BACK,
    CutoverState,
    JournalCut,
    Overtaken,
    Step,
    publish,
    read_journal,
    record,
)
from spectron_migrate.state.routing import CatchUp, Phase

if TYPE_CHECKING:
    from spectron_migrate.cutover.gates import Gate
    from spectron_migrate.cutover.privacy import Privacy
    from spectron_migrate.migration.reconcile import Reconciled

Command = Literal["start", "shift", "accept", "revert", "complete", "abort"]

LEGAL: dict[Phase, tuple[Command, ...]] = {
    "mem0": ("start",),
    "started": ("start", "shift", "accept", "revert", "abort"),
    "shift": ("shift", "accept", "revert", "complete", "abort"),
    "closing": ("shift", "accept", "revert", "complete", "abort"),
    "complete": ("complete",),
}
"""What may be done in which phase; a step that changes nothing is among them, so that a script may repeat it."""

PROCESSES_PATIENCE_S = 30.0
PROCESSES_EVERY_S = 0.2
"""For how long a start by outbox waits for the application's processes, and how often it looks."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a cutover stands after a step, or after a look."""

    state: CutoverState
    gates: tuple[Gate, ...] = ()
    reconciled: Reconciled | None = None
    privacy: Privacy | None = None
    exit_code: ExitCode = ExitCode.DONE
    note: str = ""
    """What came of the step, in a sentence."""

    @property
    def ready(self) -> bool | None:
        """Whether all gates pass; None where they were not looked at."""
        return all(gate.passed for gate in self.gates) if self.gates else None

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        return {
            "phase": self.state.phase,
            "percent": self.state.percent,
            "ready": self.ready,
            "gates": [gate.to_json() for gate in self.gates],
            "pinned": {"spectron": sorted(self.state.to_spectron)[:100], "mem0": sorted(self.state.to_mem0)[:100]},
            "pinned_count": {"spectron": len(self.state.to_spectron), "mem0": len(self.state.to_mem0)},
            "epoch": self.state.epoch,
            "fence": self.state.fence,
            "since": self.state.since,
            "sealed": self.state.sealed,
            "legal": list(LEGAL[self.state.phase]),
            "reconciled": self.reconciled.to_json() if self.reconciled else None,
            "privacy": self.privacy.to_json() if self.privacy else None,
            "note": self.note,
        }


def start(
    folder: Path,
    migration: str,
    catch_up: CatchUp,
    *,
    now: str,
    who: str,
    why: str = "",
    reporter: Reporter,
    sleep: Callable[[float], None] = time.sleep,
) -> Stand:
    """Begin: from now on what Mem0 is told comes along.

    With `outbox` it waits until every process that uses the adapter captures its writes. Raises NotLegal, and
    InputError for `outbox` where processes of other hosts use the state directory, or shards replay.
    """
    if catch_up == "outbox":
        _refuse_other_hosts(folder)
        refuse_outbox(folder)
    state = legal(folder, "start", now=now, reporter=reporter)
    if state.phase == "started":
        return Stand(state, note=f"it began already, at {state.fence}; nothing was changed")
    state = record(folder, Step("start", now, who, why, migration=migration, catch_up=catch_up), expect=state)
    if catch_up == "outbox":
        _wait_for_processes(folder, state.epoch, reporter, sleep)
    return Stand(state, note="the cutover began; everything is read from Mem0 as before")


def revert(folder: Path, *, now: str, who: str, why: str = "", reporter: Reporter) -> Stand:
    """All reads go to Mem0, at once; catching up goes on, so that the way forward stays open. Raises NotLegal."""
    state = _back(folder, "revert", Step("revert", now, who, why), reporter)
    return Stand(state, note="everything is read from Mem0; catching up goes on")


def abort(folder: Path, *, yes: bool, now: str, who: str, why: str = "", reporter: Reporter) -> Stand:
    """End it: reads on Mem0, catching up ends, the next start begins anew. Raises NotLegal, NotConfirmed."""
    legal(folder, "abort", now=now, reporter=reporter)
    if not yes:
        raise NotConfirmed("the cutover was not aborted", hint="spectron-migrate cutover abort --yes")
    state = _back(folder, "abort", Step("abort", now, who, why), reporter)
    return Stand(state, note="the cutover ended; everything is read from Mem0, and nothing is caught up any more")


def _back(folder: Path, command: Command, step: Step, reporter: Reporter) -> CutoverState:
    """Take a step that nobody's other step keeps waiting, as long as it is legal after that one too."""
    while True:
        state = legal(folder, command, now=step.at, reporter=reporter)
        with suppress(Overtaken):
            return record(folder, step, expect=state)


def shift_step(percent: float, users: Sequence[str], *, now: str, who: str, why: str = "") -> Step:
    """The step that a shift comes to; raises InputError for what is no share, or no side for a user."""
    if not 0 <= percent <= 100 or round(percent, 2) != percent:
        raise InputError(f"{percent:g} is no share of users: 0 to 100, with two decimals at most")
    if not users:
        return Step("shift", now, who, why, percent=percent)
    if percent not in (0, 100):
        raise InputError(
            f"a user is read from Spectron (100) or from Mem0 (0), not {percent:g} %",
            hint="spectron-migrate cutover shift 100 --user ID",
        )
    spectron, mem0 = (tuple(users), ()) if percent else ((), tuple(users))
    return Step("pin", now, who, why, spectron=spectron, mem0=mem0)


def shift_back(folder: Path, step: Step, *, reporter: Reporter) -> Stand | None:
    """Take the step if it brings nobody to Spectron who is not read there now; else None, and nothing happens."""
    state = legal(folder, "shift", now=step.at, reporter=reporter)
    after = state.after(step)
    more = after.percent > state.percent or after.to_spectron - state.to_spectron or state.to_mem0 - after.to_mem0
    if more:
        return None
    return Stand(record(folder, step, expect=state), note=shifted(after))


def shifted(state: CutoverState) -> str:
    """Who is read from Spectron, in a sentence."""
    pinned = [
        f"{counted(len(ids), 'user')} pinned to {where}"
        for ids, where in ((state.to_spectron, "Spectron"), (state.to_mem0, "Mem0"))
        if ids
    ]
    return "; ".join([f"{state.percent:g} % of users are read from Spectron while they are caught up", *pinned])


def legal(folder: Path, command: Command, *, now: str, reporter: Reporter) -> CutoverState:
    """The state, where the step is legal in it; a routing.json that a crash left behind is mended on the way.

    Raises NotLegal saying what is, and JournalCut for all but a way back: to abort is legal whatever is left of it.
    """
    is_cut = False
    try:
        publish(folder, now=now)
    except JournalCut:
        if command not in BACK:
            raise
        is_cut = True
    state = read_journal(folder).state
    if state.altered is not None:
        reporter.warn(f"somebody changed the journal of the cutover, from line {state.altered} on")
    if command in LEGAL[state.phase] or (is_cut and command == "abort"):
        return state
    steps = ", ".join(f"cutover {each}" for each in LEGAL[state.phase])
    raise NotLegal(f"`cutover {command}` is not legal {_IN[state.phase]}", hint=f"legal now: {steps}")


_IN: dict[Phase, str] = {
    "mem0": "now: no cutover has begun",
    "started": "now: everything is still read from Mem0",
    "shift": "while reads are being shifted",
    "closing": "while it is closing",
    "complete": "any more: it is complete, Spectron is the truth",
}


def _refuse_other_hosts(folder: Path) -> None:
    others = processes.read_processes(folder).other_hosts(socket.gethostname())
    if others:
        raise InputError(
            f"`cutover.catch_up` is outbox, and processes on {', '.join(others)} use {folder} too",
            hint="an outbox is one host's; with `follow` any number of hosts may write",
        )


def _wait_for_processes(folder: Path, epoch: int, reporter: Reporter, sleep: Callable[[float], None]) -> None:
    """Until no live process runs a write that it does not capture; what is missed all the same, reconciling finds."""
    waited = 0.0
    while late := processes.read_processes(folder).not_on(epoch):
        if waited >= PROCESSES_PATIENCE_S:
            named = ", ".join(str(each.pid) for each in late[:10])
            who = counted(len(late), "process does", "processes do")
            reporter.warn(f"{who} not capture writes yet: {named}; reconciling finds them")
            return
        sleep(PROCESSES_EVERY_S)
        waited += PROCESSES_EVERY_S
