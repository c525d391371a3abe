"""What follows a verdict of NO_GO: a command if one helps, else why none does and where to read on (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from spectron_migrate.cli.replay_adopt import ADOPT
from spectron_migrate.records import Json
from spectron_migrate.verify.differences import AGAINST
from spectron_migrate.verify.expected import FOR_A_PERSON, SENT_BY_A_REPLAY
from spectron_migrate.verify.integrity import GONE

VERIFY, REWRITE = "8. Verify", "Write a scope again"
"""Sections of docs/runbook.md."""

_STOPS: Mapping[str, tuple[str, str]] = {
    "isolation": (
        "leak",
        "a user can read another user's memories. Look at mapping.yaml and at the grants of the key",
    ),
    "misplaced": ("misplaced", "memories are not where their owners search for them. Look at mapping.yaml"),
    "facts": ("misplaced_fact", "Spectron keeps what it extracted from a memory in another scope"),
    "doubled": ("doubled", "memories are in Spectron twice. Find out who else writes there"),
    "foreign": ("foreign", "somebody else writes to the sessions of this migration. Find out who"),
    "altered": ("altered", "Spectron does not hold the texts that were sent"),
}
"""Gate, the worst first -> the kind of its findings, and why no command fixes it."""
_IN_THE_WRONG_ORDER = {"order": "order", "supersession": "superseded_wrongly"}


@dataclass(frozen=True)
class WayOn:
    """What to do after a verification."""

    next: str | None = None
    stop: str = ""
    """Why no command fixes what failed, and where to read on; empty if a command does."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Commands, one of which a person has to choose -> when to choose it."""


def way_on(
    report: Mapping[str, Json], *, again: str, is_followed: bool, erase_command: Callable[[str], str | None]
) -> WayOn:
    """What follows a verdict of NO_GO, by the worst failure.

    `again`: the command line of this verification. `erase_command`: memory -> the command that erases its scope, so
    that it is written again; None if no scope can be erased.
    """
    failed = {gate["name"] for gate in report["gates"] if gate["passed"] is False and not gate["accepted"]}
    for gate, (kind, why) in _STOPS.items():
        if gate in failed:
            return _stop(why, gate, explain=_first(report, kind))
    missing = _missing(report)
    if "none" in missing:
        return _stop("a replay does not send these memories again", "missing", explain=missing["none"])
    if "gone" in missing:
        return WayOn(f"{ADOPT} --dry-run")
    for gate, kind in _IN_THE_WRONG_ORDER.items():
        if gate in failed:
            return _write_again(_first(report, kind), gate, erase_command)
    if missing:
        is_for_status = is_followed or "for a person" in missing
        return WayOn("spectron-migrate status" if is_for_status else "spectron-migrate replay")
    if "lost" in failed:
        return _stop("Mem0 finds memories that Spectron does not", "lost", explain=next(_lost(report), None))
    for gate in ("recall", "overlap"):
        if gate in failed:
            return _stop("a replay changes no ranking. Read the differences in the report", gate)
    accepts = {
        "residue": f"the leftover turns may stay; else docs/runbook.md, {REWRITE}",
        "unaccounted": f"others may write there; else find out who did: docs/runbook.md, {VERIFY}",
    }
    return WayOn(choices={f"{again} --accept {gate}": when for gate, when in accepts.items() if gate in failed})


def _stop(why: str, gate: str, *, explain: str | None = None, section: str = VERIFY) -> WayOn:
    command = f"spectron-migrate explain {shlex.quote(explain)}" if explain is not None else None
    return WayOn(command, f"{why}. No command fixes that: see the gate {gate} in docs/runbook.md, {section}")


def _write_again(mem0_id: str | None, gate: str, erase_command: Callable[[str], str | None]) -> WayOn:
    """Erase and write again: what superseded a newer text stays until the scope is written again in the right order."""
    why = "what was extracted from an older text may stand over a newer one"
    command = erase_command(mem0_id) if mem0_id is not None else None
    if command is None:
        return _stop(why, gate, explain=mem0_id, section=REWRITE)
    return WayOn(f"{command} --dry-run", f"{why}. A replay does not fix that: see docs/runbook.md, {REWRITE}")


def _first(report: Mapping[str, Json], kind: str) -> str | None:
    """The first memory with a finding of this kind."""
    return next((one["id"] for one in report["findings"] if one["kind"] == kind and one["id"] is not None), None)


def _missing(report: Mapping[str, Json]) -> dict[str, str]:
    """What helps against missing memories -> the first memory for which it helps."""
    found: dict[str, str] = {}
    for finding in report["findings"]:
        if finding["kind"] == "missing":
            found.setdefault(_remedy(finding["reason"]), finding["id"])
    return found


def _remedy(reason: str) -> str:
    remedies = {"replay": SENT_BY_A_REPLAY, "for a person": FOR_A_PERSON, "gone": GONE}
    return next((name for name, reasons in remedies.items() if reason.startswith(reasons)), "none")


def _lost(report: Mapping[str, Json]) -> Iterator[str]:
    for answer in report["answers"]:
        for difference in answer.get("differences") or ():
            if difference["why"] in AGAINST:
                yield difference["id"]
