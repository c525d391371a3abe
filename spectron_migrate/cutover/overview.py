"""Where a cutover stands, read in a moment and without any network: for `status`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from spectron_migrate.files.atomic import read_json
from spectron_migrate.records import Json, counted
from spectron_migrate.state import processes
from spectron_migrate.state.following import FOLLOW_FILE, is_followed
from spectron_migrate.state.journal import CutoverState, Step, read_journal
from spectron_migrate.state.routing import FILE as ROUTING_FILE
from spectron_migrate.state.routing import read_routing

LAST = 10
"""Steps of the journal that are shown."""


def overview(folder: Path, *, now: datetime) -> dict[str, Json] | None:
    """Phase, following, lag, steps and what to run next; None where neither a cutover nor following ever began."""
    journal = read_journal(folder)
    followed = read_json(folder / FOLLOW_FILE)
    if not journal.steps and followed is None:
        return None
    state, following = journal.state, is_followed(folder)
    try:
        routing = read_routing(folder / ROUTING_FILE)
        broken = None
    except ValueError as error:
        routing, broken = None, str(error)
    as_of = routing.as_of if routing is not None else None
    if as_of is None and followed is not None:
        as_of = followed.get("as_of")
    behind = None if routing is None or routing.behind is None else len(routing.behind)
    lag = None if as_of is None or state.phase == "complete" else (now - datetime.fromisoformat(as_of)).total_seconds()
    return {
        "migration": state.migration or None,
        "phase": state.phase,
        "percent": state.percent,
        "pinned_count": {"spectron": len(state.to_spectron), "mem0": len(state.to_mem0)},
        "fence": state.fence,
        "since": state.since,
        "sealed": state.sealed,
        "following": following,
        "problem": followed.get("problem") if followed is not None and following else None,
        "as_of": as_of,
        "lag_s": None if lag is None else round(lag, 1),
        "behind": behind,
        "routing": broken or _agrees(state, routing.epoch if routing is not None else None),
        "journal_altered_at_line": state.altered,
        "application": processes.read_processes(folder, now=now).to_json(),
        "steps": [_told(step) for step in journal.steps[-LAST:]],
        "steps_count": len(journal.steps),
        "next": next_step(state, following=following),
    }


def next_step(state: CutoverState, *, following: bool, ready: bool | None = None) -> str | None:
    """What to run next, as a command line; None where a cutover is over or never began."""
    if state.phase == "complete":
        return None if state.sealed else _complete(state)
    if not state.under_way:
        return None
    if not following:
        return "spectron-migrate replay --follow"
    if state.phase == "closing" or (state.phase == "shift" and state.percent == 100 and not state.to_mem0):
        return _complete(state)
    if ready:
        return f"spectron-migrate cutover shift {_more(state.percent):g}"
    return "spectron-migrate cutover check"


def _complete(state: CutoverState) -> str:
    return f"spectron-migrate cutover complete --migration {state.migration} --yes"


def _more(percent: float) -> float:
    return next((each for each in (1, 5, 25, 50, 100) if each > percent), 100)


def _agrees(state: CutoverState, epoch: int | None) -> str:
    if epoch is None:
        return "none" if not state.ever_began else "missing; any cutover command writes it again"
    return "current" if epoch == state.epoch else "behind the journal; any cutover command mends it"


def _told(step: Step) -> dict[str, Json]:
    told = {"step": step.step, "at": step.at, "who": step.who, "why": step.why}
    if step.step == "shift":
        told["what"] = f"{step.percent:g} %"
    elif step.step == "pin":
        told["what"] = f"{counted(len(step.spectron), 'user')} to Spectron, {len(step.mem0):,} to Mem0"
    elif step.step == "accept":
        told["what"] = step.gate + (f", {counted(len(step.ids), 'memory')}" if step.ids else "")
    return told
