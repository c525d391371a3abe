"""The result of a gate of a cutover, and how an acceptance changes it. The gates themselves are in gates.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from spectron_migrate.cutover.evidence import Evidence
from spectron_migrate.cutover.next_step import GatedStep
from spectron_migrate.records import Json
from spectron_migrate.state.cutover_state import CutoverState, Step

MOST_LISTED = 100
GateOutcome = Literal["passed", "failed", "inconclusive", "incomplete"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """The result of one gate."""

    value: Json
    """What was measured; None if it could not be."""
    limit: Json
    """The limit for `value`."""
    outcome: GateOutcome
    hint: str = ""
    """How to make it pass; empty if it passed."""
    memories: Mapping[str, str] = field(default_factory=dict)
    """The memories that the gate is about, each with what the gate says about it. They can be accepted one by one."""
    about: str = ""
    """For a gate that is accepted as a whole: identifies what is accepted. Empty if it cannot be accepted now."""
    name: str = ""
    """Filled in by `evaluate_gates`, as is `holds`."""
    holds: GatedStep = "shift"
    """The first step that the gate holds back."""
    is_early: bool = False
    """Nothing is wrong, but something was not done yet, or time has to pass. The step is held back, as by a failure."""
    accepted_by: str | None = None
    """Who accepted what the gate shows, when and why; filled in by `evaluate_gates`."""

    @property
    def passed(self) -> bool:
        """True if the gate lets a step through."""
        return self.outcome == "passed"

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON carries it, with at most `MOST_LISTED` ids."""
        fields: dict[str, Json] = {
            "name": self.name,
            "value": self.value,
            "limit": self.limit,
            "passed": self.passed,
            "outcome": self.outcome,
            "hint": self.hint,
            "accepted_by": self.accepted_by,
            "holds": self.holds,
        }
        if self.memories:
            fields |= {"ids": list(self.memories)[:MOST_LISTED], "ids_count": len(self.memories)}
        return fields


@dataclass(frozen=True, slots=True)
class CutoverGate:
    """An entry of `GATES`."""

    name: str
    check: Callable[[Evidence], GateResult]
    accept: Literal["never", "by memory", "as a whole"] = "never"
    holds: GatedStep = "shift"
    """The first step that the gate holds back. It holds back all later steps too."""


def apply_acceptances(gate: CutoverGate, result: GateResult, state: CutoverState) -> GateResult:
    """The result after acceptances: passed if everything that the gate shows now was accepted as it is."""
    if result.passed or gate.accept == "never":
        return result
    steps = [step for step in state.accepted if step.gate == gate.name]
    if gate.accept == "as a whole":
        steps = [step for step in steps if result.about and step.about == result.about]
        return _passed_by(steps, result) if steps else result
    remaining = state.not_accepted(gate.name, result.memories)
    if remaining:
        return replace(result, hint=f"{len(remaining):,} not accepted: {result.hint}")
    return _passed_by(steps, result)


def _passed_by(steps: Sequence[Step], result: GateResult) -> GateResult:
    accepted_by = "; ".join(f"{step.who}, {step.at}: {step.why}" for step in steps)
    return replace(result, outcome="passed", hint="", accepted_by=accepted_by)


def passed(value: Json, limit: Json) -> GateResult:
    """The gate lets a step through."""
    return GateResult(value, limit, "passed")


def failed(value: Json, limit: Json, hint: str) -> GateResult:
    """The gate holds a step back, and this cannot be accepted."""
    return GateResult(value, limit, "failed", hint)


def not_yet(value: Json, limit: Json, hint: str, *, about: str = "") -> GateResult:
    """The gate holds a step back until something is done, or time has passed; `about`: it may be accepted."""
    return GateResult(value, limit, "failed", hint, about=about, is_early=True)


def each_accepted(memories: Mapping[str, str], hint: str) -> GateResult:
    """For gates that are accepted by memory: failed while there are such memories."""
    if not memories:
        return passed(0, 0)
    return GateResult(len(memories), 0, "failed", hint, memories=memories)
