"""Draws the gates of a cutover: those that pass on one line, every other one with its reason and its command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from spectron_migrate.cli.tables import duration, plain
from spectron_migrate.records import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spectron_migrate.cutover.gate_result import GateResult

NOT_YET = "not yet"
OUTCOMES = {"passed": "passed", "failed": "FAILED", "inconclusive": "undecided", "incomplete": "NOT COMPLETE"}
_HELD = {"shift": "the next shift", "all": "a shift of all users", "complete": "complete"}
_MICROSECONDS = re.compile(r"\.\d{6}Z")
_STYLES = {"failed": "red", "inconclusive": "yellow", "incomplete": "red"}


def draw_gates(
    gates: Sequence[GateResult], needed: Sequence[GateResult], *, later_in_full: bool = True
) -> Iterator[RenderableType]:
    """`needed`: the gates that the next step needs.

    Others are dim, because they do not hold anything back yet. Their reasons are shown only if `later_in_full`.
    """
    passing = [gate for gate in gates if gate.passed]
    closed = [gate for gate in gates if not gate.passed]
    if not closed:
        yield plain(f"All gates pass: {_named(passing)}", style="bold green")
    elif not any(gate in needed for gate in closed):
        yield plain(f"All gates pass that the next step needs: {_named(passing)}", style="bold green")
    else:
        yield plain(f"{len(passing)} of {counted(len(gates), 'gate')} pass: {_named(passing)}", style="dim")
    for gate in passing:
        if gate.accepted_by:
            yield plain(f"  {gate.name}: accepted by {_MICROSECONDS.sub('Z', gate.accepted_by)}", style="dim")
        elif gate.name == "soak" and isinstance(gate.limit, str):  # a cutover without a soak time must be visible
            yield plain(f"  {gate.name}: {gate.limit}", style="yellow")
    for gate in (gate for gate in closed if gate in needed):
        word, style = (NOT_YET, "yellow") if gate.is_early else (OUTCOMES[gate.outcome], _STYLES.get(gate.outcome, ""))
        yield plain(f"{gate.name}: {word}{_figures(gate)}", style=style)
        yield plain(f"  {gate.hint}")
    later = [gate for gate in closed if gate not in needed]
    if later and not later_in_full:
        steps = {gate.holds: [each.name for each in later if each.holds == gate.holds] for gate in later}
        named = "; ".join(f"before {_HELD[step]}: {', '.join(names)}" for step, names in steps.items())
        yield plain(f"later, {named}", style="dim")
        return
    for gate in later:
        yield plain(f"{gate.name}: before {_HELD[gate.holds]}", style="dim")
        yield plain(f"  {gate.hint}", style="dim")


def value_text(value: object) -> str:
    """A value of a gate in words; `-` for one that is not known."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {value_text(each)}" for name, each in value.items())
    if isinstance(value, str) and len(value) == 27 and value.endswith("Z"):
        return f"{value[:10]} {value[11:19]}"  # a time, without the microseconds, which are in the JSON
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _figures(gate: GateResult) -> str:
    """What was measured, and what was wanted; empty if there is no such value."""
    if gate.value is None or gate.limit is None:
        return ""
    if gate.is_early and isinstance(gate.value, int | float):
        return f", {_figure(gate, gate.value)} of {_figure(gate, gate.limit)}"
    if gate.is_early:
        return ""
    return f", {_figure(gate, gate.value)} (wanted: {_figure(gate, gate.limit)})"


def _figure(gate: GateResult, value: object) -> str:
    is_time = gate.name in ("soak", "lag")
    return duration(value) if is_time and isinstance(value, int | float) else value_text(value)


def _named(gates: Sequence[GateResult]) -> str:
    return ", ".join(gate.name for gate in gates) or "none"
