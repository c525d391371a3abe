"""What `status` shows of a cutover, read without the network, and the command to run next."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from shlex import quote

from spectron_migrate.cutover.next_step import next_share
from spectron_migrate.records import Json, counted
from spectron_migrate.state import processes
from spectron_migrate.state.cutover_state import CutoverState, Step
from spectron_migrate.state.following import FOLLOW_FILE, is_followed, why_undrained
from spectron_migrate.state.journal import read_journal
from spectron_migrate.state.late_writes import LateWrites, last_late_writes
from spectron_migrate.state.routing import read_routing
from spectron_migrate.state.store import StateStore, read_object

LAST_STEPS = 10
"""How many of the journal's steps are shown."""


def cutover_status(store: Path | StateStore, *, now: datetime) -> dict[str, Json] | None:
    """Phase, following, lag, the last steps and the next command; None if there was neither cutover nor following."""
    journal = read_journal(store)
    followed = read_object(store, FOLLOW_FILE)
    if not journal.steps and followed is None:
        return None
    state, following = journal.state, is_followed(store)
    late = last_late_writes(store) if state.phase == "complete" else None
    try:
        routing, broken = read_routing(store), None
    except ValueError as error:
        routing, broken = None, str(error)
    as_of = routing.as_of if routing is not None else None
    if as_of is None and followed is not None:
        as_of = followed.get("as_of")
    problem = followed.get("problem") if followed is not None and following else None
    if state.is_under_way and state.catch_up == "outbox":
        problem = why_undrained(store)
    lag = None if as_of is None or state.phase == "complete" else (now - datetime.fromisoformat(as_of)).total_seconds()
    return {
        "migration": state.migration or None,
        "phase": state.phase,
        "percent": state.percent,
        "pinned_count": {"spectron": len(state.pinned_to_spectron), "mem0": len(state.pinned_to_mem0)},
        "fence": state.fence,
        "since": state.changed_at,
        "sealed": state.sealed,
        "following": following,
        "problem": problem,
        "as_of": as_of,
        "lag_s": None if lag is None else round(lag, 1),
        "missed": followed.get("missed") if followed is not None else None,
        "behind": None if routing is None or routing.behind is None else len(routing.behind),
        "routing": broken or _routing_status(state, routing.epoch if routing is not None else None),
        "journal_altered_at_line": state.altered,
        "application": processes.read_processes(store, now=now).to_json(),
        "steps": [_step_to_json(step) for step in journal.steps[-LAST_STEPS:]],
        "steps_count": len(journal.steps),
        "late_writes": late.to_json() if late is not None else None,
        "next": next_command(state, following=following, late=late),
    }


def next_command(
    state: CutoverState, *, following: bool, ready: bool | None = None, late: LateWrites | None = None
) -> str | None:
    """The command to run next; None if no cutover began, or if it is over and nothing newer was found in Mem0.

    `ready`: whether all gates that the next step needs pass; None if the gates were not evaluated. `late`: what the
    last reading of Mem0 after `complete` found.
    """
    if state.phase == "complete":
        if not state.sealed:
            return _complete_command(state)
        if late is None:
            return "spectron-migrate cutover check"
        return "spectron-migrate replay --late-writers" if late.count else None
    if not state.is_under_way:
        return None
    if not following:
        return "spectron-migrate replay --follow"
    if not ready:
        return "spectron-migrate cutover check"
    if state.all_read_since is not None:
        return _complete_command(state)
    if state.percent == 100:
        return f"spectron-migrate cutover shift 100 --user {quote(min(state.pinned_to_mem0))}"
    return f"spectron-migrate cutover shift {next_share(state.percent):g}"


def _complete_command(state: CutoverState) -> str:
    return f"spectron-migrate cutover complete --migration {state.migration} --yes"


def _routing_status(state: CutoverState, routing_epoch: int | None) -> str:
    """Whether `routing.json` has the same epoch as the journal."""
    if routing_epoch is None:
        return "none" if not state.ever_began else "missing; any cutover command writes it again"
    return "current" if routing_epoch == state.epoch else "behind the journal; any cutover command updates it"


def _step_to_json(step: Step) -> dict[str, Json]:
    fields = {"step": step.step, "at": step.at, "who": step.who, "why": step.why}
    if step.step == "shift":
        fields["what"] = f"{step.percent:g} %"
    elif step.step == "pin":
        fields["what"] = f"{counted(len(step.spectron), 'user')} to Spectron, {len(step.mem0):,} to Mem0"
    elif step.step == "accept":
        fields["what"] = step.gate + (f", {counted(len(step.ids), 'memory')}" if step.ids else "")
    return fields
