"""The phases of a cutover, the commands that are legal in each, and the result that every command returns.

    mem0 --start--> started --shift--> shift --complete--> closing --> complete
              ^        ^ |               | ^                  |
              |        | +---- shift ----+ +------ shift -----+
              |        +--- revert, from shift and closing ---+
              +------- abort, from started, shift and closing

Reads go to Mem0 in `mem0` and `started`, and are split between both systems in `shift` and `closing`. From
`complete` on the application reads from and writes to Spectron; no command leads back from there.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spectron_migrate.errors import ExitCode, MigrateError, NotLegal
from spectron_migrate.records import Json, counted
from spectron_migrate.reporter import Reporter
from spectron_migrate.state.cutover_state import CutoverState
from spectron_migrate.state.journal import STEPS_BACK, JournalTruncated, publish_routing, read_journal
from spectron_migrate.state.late_writes import LateWrites
from spectron_migrate.state.routing import Phase
from spectron_migrate.state.store import StateStore

if TYPE_CHECKING:  # imported here only for types: `cutover revert` must not wait for the imports of gates and reconcile
    from spectron_migrate.cutover.gate_result import GateResult
    from spectron_migrate.cutover.next_step import GatedStep
    from spectron_migrate.cutover.privacy import PrivacySummary
    from spectron_migrate.migration.reconcile import Reconciled

Command = Literal["start", "shift", "accept", "revert", "complete", "abort"]

LEGAL: dict[Phase, tuple[Command, ...]] = {
    "mem0": ("start",),
    "started": ("start", "shift", "accept", "revert", "abort"),
    "shift": ("shift", "accept", "revert", "complete", "abort"),
    "closing": ("shift", "accept", "revert", "complete", "abort"),
    "complete": ("complete",),
}
"""The commands that are legal in each phase. A command that would change nothing is legal, so scripts may repeat it."""

MOST_PINNED_LISTED = 100


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a cutover command did: the state after it, and what was measured on the way."""

    state: CutoverState
    gates: tuple[GateResult, ...] = ()
    """Empty if the command did not evaluate the gates."""
    reconciled: Reconciled | None = None
    privacy: PrivacySummary | None = None
    late_writes: LateWrites | None = None
    """After `complete`: memories in Mem0 that are newer than Spectron."""
    exit_code: ExitCode = ExitCode.DONE
    note: str = ""
    """The outcome in one sentence."""

    ready: bool | None = None
    """Whether all gates that the next step needs pass; None if the gates were not evaluated."""
    moved: bool = False
    """Whether reads were moved to Spectron just now. Then the next step should wait a while."""

    refused: GatedStep | None = None
    """The step that the gates held back, if any."""

    def to_json(self) -> dict[str, Json]:
        """The fields of the command's JSON."""
        spectron, mem0 = sorted(self.state.pinned_to_spectron), sorted(self.state.pinned_to_mem0)
        return {
            "phase": self.state.phase,
            "percent": self.state.percent,
            "ready": self.ready,
            "gates": [gate.to_json() for gate in self.gates],
            "pinned": {"spectron": spectron[:MOST_PINNED_LISTED], "mem0": mem0[:MOST_PINNED_LISTED]},
            "pinned_count": {"spectron": len(spectron), "mem0": len(mem0)},
            "epoch": self.state.epoch,
            "fence": self.state.fence,
            "since": self.state.changed_at,
            "sealed": self.state.sealed,
            "legal": list(LEGAL[self.state.phase]),
            "reconciled": self.reconciled.to_json() if self.reconciled else None,
            "privacy": self.privacy.to_json() if self.privacy else None,
            "late_writes": self.late_writes.to_json() if self.late_writes else None,
            "note": self.note,
        }


def require_legal(store: Path | StateStore, command: Command, *, now: str, reporter: Reporter) -> CutoverState:
    """The current state, if `command` is legal in it. Also brings a stale `routing.json` up to the journal.

    Raises NotLegal, naming the legal commands, and JournalTruncated if lines of the journal are missing. In that case
    revert and abort are checked against what is left of the journal, and abort is legal in any phase, unless the ledger
    notes that a cutover was completed.
    """
    is_truncated = False
    try:
        publish_routing(store, now=now)
    except JournalTruncated:
        if command not in STEPS_BACK:
            raise
        is_truncated = True
        _refuse_after_complete(store)
    state = read_journal(store).state
    if state.altered is not None:
        reporter.warn(
            f"the journal of the cutover was edited by hand: line {state.altered} does not follow the one before"
        )
    if command in LEGAL[state.phase] or (is_truncated and command == "abort"):
        return state
    hint = f"legal now: {', '.join(f'cutover {each}' for each in LEGAL[state.phase])}"
    if state.phase == "complete":
        finish = "" if state.sealed else "cutover complete finishes it; "
        hint = (
            f"{finish}there is no way back, because Mem0 is out of date; if Spectron fails, the adapter tries again and"
            " then raises: see docs/adapter.md, After complete"
        )
    raise NotLegal(f"`cutover {command}` is not legal {_WHEN[state.phase]}", hint=hint)


def _refuse_after_complete(store: Path | StateStore) -> None:
    """Raises NotLegal if the ledger notes a completed cutover: applications would write to Mem0 alone again."""
    from spectron_migrate.ledger import Ledger
    from spectron_migrate.ledger.cutover_note import cutover_note, describe_lost_journal

    noted = None
    with suppress(MigrateError, OSError, sqlite3.Error):  # a broken ledger must not prevent a step back
        if Ledger.exists(store):
            with Ledger.open_for_reading(store) as ledger:
                noted = cutover_note(ledger)
    if noted == "complete":
        raise NotLegal(
            f"{describe_lost_journal(noted)}: nothing was changed",
            hint="spectron-migrate cutover check asks Spectron, and writes into the journal that it is complete",
        )


_WHEN: dict[Phase, str] = {
    "mem0": "now: no cutover has begun here",
    "started": "now: everything is still read from Mem0",
    "shift": "while reads are being shifted",
    "closing": "while the cutover is closing",
    "complete": "any more: the cutover is complete and cannot be undone",
}


def describe_reads(state: CutoverState) -> str:
    """One sentence that says which users are read from Spectron."""
    pinned = [
        f"{counted(len(ids), 'user')} pinned to {system}"
        for ids, system in ((state.pinned_to_spectron, "Spectron"), (state.pinned_to_mem0, "Mem0"))
        if ids
    ]
    return "; ".join([f"{state.percent:g} % of users are read from Spectron while they are caught up", *pinned])
