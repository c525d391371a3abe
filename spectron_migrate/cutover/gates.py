"""What must hold before reads go to Spectron, and again before Mem0 is left: pure, over `Evidence`.

A gate that can be accepted is accepted by name, for exactly what it shows at that moment; who did so, when and why
stands in the journal. Leaks, a verdict of NO_GO and memories on their way are never accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from spectron_migrate.cutover.evidence import Evidence
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.records import Json, counted
from spectron_migrate.state.journal import CutoverState, Step, mark_of
from spectron_migrate.state.processes import GATE_DAYS

LISTED = 100
Outcome = Literal["passed", "failed", "inconclusive", "incomplete"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing that must hold."""

    name: str
    value: Json
    limit: Json
    outcome: Outcome
    hint: str = ""
    """What to do about it; empty where it passed."""
    accepted_by: str | None = None
    shown: Mapping[str, str] = field(default_factory=dict)
    """Memories that it is about and what it says of each: for that, each can be accepted by name."""
    about: str = ""
    """What exactly can be accepted, where it is not memories."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The memories that it is about."""
        return tuple(self.shown)

    @property
    def passed(self) -> bool:
        """Whether it lets a step through."""
        return self.outcome == "passed"

    def to_json(self) -> dict[str, Json]:
        """As the command's JSON and the journal carry it."""
        told: dict[str, Json] = {
            "name": self.name,
            "value": self.value,
            "limit": self.limit,
            "passed": self.passed,
            "outcome": self.outcome,
            "hint": self.hint,
            "accepted_by": self.accepted_by,
        }
        return told | ({"ids": list(self.ids[:LISTED]), "ids_count": len(self.ids)} if self.ids else {})


def gates_of(evidence: Evidence) -> list[Gate]:
    """All gates, in the order in which they are mended."""
    return [gate(evidence) for gate in _GATES]


def exit_code_of(gates: Iterable[Gate]) -> ExitCode:
    """0 where all pass; else 4 where one failed, 11 where something is not complete, 5 where one is undecided."""
    outcomes = {gate.outcome for gate in gates}
    for outcome, code in _CODES.items():
        if outcome in outcomes:
            return code
    return ExitCode.DONE


_CODES: dict[Outcome, ExitCode] = {
    "failed": ExitCode.NO_GO,
    "incomplete": ExitCode.INCOMPLETE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


def acceptance(gates: Sequence[Gate], name: str, ids: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """What accepting a gate comes to now: memories, or exactly what it is about.

    Raises InputError for a gate that does not exist, that cannot be accepted, or that names no such memories.
    """
    gate = next((each for each in gates if each.name == name), None)
    if gate is None or name not in ACCEPTABLE:
        raise InputError(
            f"{name} is no gate that can be accepted" if gate else f"there is no gate {name}",
            hint=f"these can be accepted: {', '.join(ACCEPTABLE)}",
        )
    if ids and name not in BY_ID:
        hint = f"spectron-migrate cutover accept {name} --reason TEXT"
        raise InputError(f"the gate {name} is not about single memories", hint=hint)
    strangers = sorted(set(ids) - set(gate.ids))
    if strangers:
        raise InputError.of_all([f"the gate {name} is not about memory {each}" for each in strangers])
    if not gate.ids and not gate.about:
        hint = "spectron-migrate cutover check shows how it stands"
        raise InputError(f"at the gate {name} there is nothing to accept", hint=hint)
    named = tuple(ids or gate.ids)
    return named, " ".join(mark_of(gate.shown[each]) for each in named) or gate.about


ACCEPTABLE = ("refused", "moved", "verdict", "will_not_expire", "calls")
BY_ID = ("refused", "moved", "will_not_expire")


def _base(evidence: Evidence) -> Gate:
    """The newest dump began after the fence, and is proven complete."""
    fence, dump = evidence.state.fence, evidence.dump
    gate = Gate("base", dump.began if dump else None, fence, "failed")
    if evidence.missing is not None:
        return replace(gate, outcome="incomplete", hint=evidence.missing)
    if fence is None:
        return replace(gate, hint="no cutover has begun: spectron-migrate cutover start")
    if dump is None:
        return replace(gate, hint="there is no dump yet: spectron-migrate replay --follow")
    if not dump.complete or not dump.whole:
        why = "the newest dump is not complete: spectron-migrate export, without filters"
        return replace(gate, outcome="incomplete", hint=why)
    if dump.began <= fence:
        return replace(gate, hint="Mem0 was read before the cutover began: spectron-migrate replay --follow")
    return replace(gate, outcome="passed")


def _delivered(evidence: Evidence) -> Gate:
    """Nothing remains, nothing is in doubt or undecidable."""
    if evidence.ledger is None:
        return Gate("delivered", None, 0, "failed", "nothing was replayed yet: spectron-migrate replay --follow")
    left = evidence.ledger.left
    value = {"remaining": left.remaining, "in_doubt": left.in_doubt, "undecidable": left.undecidable}
    if not left.total:
        return Gate("delivered", value, 0, "passed")
    hint = "spectron-migrate replay --follow delivers it"
    if left.undecidable:
        hint = (
            "spectron-migrate status names what is undecidable;"
            " spectron-migrate replay --resolve ID=present (or =absent) decides it"
        )
    return Gate("delivered", value, 0, "failed", hint)


def _refused(evidence: Evidence) -> Gate:
    """What the server refused is accepted by name."""
    shown = evidence.ledger.refused if evidence.ledger else {}
    return _by_id(
        Gate("refused", len(shown), 0, "passed", shown=shown),
        evidence.state,
        "review/refused.jsonl says why; mend it, then spectron-migrate replay --retry-failed;"
        " or spectron-migrate cutover accept refused=ID --reason TEXT",
    )


def _moved(evidence: Evidence) -> Gate:
    """No memory is in Spectron under another owner than it has in Mem0."""
    shown = evidence.ledger.moved if evidence.ledger else {}
    return _by_id(
        Gate("moved", len(shown), 0, "passed", shown=shown),
        evidence.state,
        "their ids were edited in Mem0 after they were sent, and Spectron moves no memory: both owners are read from"
        " Mem0; undo the edit, or spectron-migrate cutover accept moved=ID --reason TEXT",
    )


def _reconciled(evidence: Evidence) -> Gate:
    """Two readings of all of Mem0 in a row agree with the ledger."""
    last, fence = evidence.reconciled, evidence.state.fence
    gate = Gate("reconciled", None, "two readings agree", "failed")
    hint = "spectron-migrate replay --follow compares by itself; so does every shift"
    if last is None or fence is None or last.began <= fence:
        return replace(gate, hint=f"not yet since the cutover began: {hint}")
    gate = replace(gate, value={"agree": last.agree, "differences": last.differences, "at": last.ended})
    if not last.agree:
        named = f", among them {', '.join(last.named[:3])}" if last.named else ""
        return replace(gate, hint=f"{counted(last.differences, 'memory differs', 'memories differ')}{named}: {hint}")
    if _age(evidence.now, last.ended) > evidence.max_age_s:
        return replace(gate, hint=f"longer ago than max_age: {hint}")
    return replace(gate, outcome="passed")


def _lag(evidence: Evidence) -> Gate:
    """Following keeps up."""
    if evidence.as_of is None:
        return Gate("lag", None, evidence.max_lag_s, "failed", "nobody follows: spectron-migrate replay --follow")
    lag = round(_age(evidence.now, evidence.as_of), 1)
    if lag <= evidence.max_lag_s:
        return Gate("lag", lag, evidence.max_lag_s, "passed")
    hint = "is spectron-migrate replay --follow running? a round that takes longer needs a larger cutover.max_lag"
    return Gate("lag", lag, evidence.max_lag_s, "failed", hint)


def _verdict(evidence: Evidence) -> Gate:
    """The newest dual-verify says GO, about this migration as it is now."""
    report, state = evidence.report, evidence.state
    gate = Gate("verdict", report.verdict if report else None, "GO", "failed")
    again = "spectron-migrate dual-verify"
    if report is None:
        return replace(gate, hint=f"nothing was verified yet: {again}")
    ledger = evidence.ledger
    if ledger is None or report.migration != ledger.migration:
        return replace(gate, hint=f"the newest report is about another migration: {again}")
    if report.mapping != ledger.mapping or evidence.mapping != ledger.mapping:
        return replace(gate, hint=f"the mapping is not the one that was verified: replay, then {again}")
    if not report.whole:
        return replace(gate, hint=f"the newest report judges some users only: {again}, without --user")
    if report.scan_began is None or (state.fence is not None and report.scan_began <= state.fence):
        return replace(gate, hint=f"the newest report judges by a dump not replayed since the cutover began: {again}")
    if report.began < report.scan_began or _age(evidence.now, report.ended) > evidence.max_age_s:
        return replace(gate, hint=f"the newest report is older than cutover.max_age: {again}")
    if report.verdict == "GO":
        return replace(gate, outcome="passed")
    if report.verdict != "INCONCLUSIVE":
        return replace(gate, hint=f"{REPORT_HINT}; it cannot be accepted")
    gate = replace(gate, about=report.digest)
    hint = f"{REPORT_HINT}; more queries may decide it, or spectron-migrate cutover accept verdict --reason TEXT"
    return _as_accepted(gate, state, replace(gate, outcome="inconclusive", hint=hint))


REPORT_HINT = "dual-verify.json in the state directory says why"


def _leaks(evidence: Evidence) -> Gate:
    """Nobody sees another's memories."""
    report = evidence.report
    if report is None:
        return Gate("leaks", None, 0, "failed", "isolation was not tried yet: spectron-migrate dual-verify")
    if not report.whole:
        return Gate("leaks", None, 0, "failed", "isolation was tried for some users only: spectron-migrate dual-verify")
    hint = "" if not report.leaks else "somebody can read another's memories; this is never accepted"
    return Gate("leaks", report.leaks, 0, "passed" if not report.leaks else "failed", hint)


def _will_not_expire(evidence: Evidence) -> Gate:
    """Memories that would vanish from Mem0 by themselves will not from Spectron."""
    shown = evidence.ledger.will_not_expire if evidence.ledger else {}
    return _by_id(
        Gate("will_not_expire", len(shown), 0, "passed", shown=shown),
        evidence.state,
        "they expire in Mem0 and stay in Spectron: spectron-migrate cutover accept will_not_expire --reason TEXT",
    )


def _key(evidence: Evidence) -> Gate:
    """The key works, and may read and write wherever memories are."""
    key = evidence.key
    if key.problem is not None:
        return Gate("key", None, "read and write", "failed", key.problem)
    if key.lacking:
        hint = f"{key.principal} lacks {counted(len(key.lacking), 'grant')}, the first: {key.lacking[0]}"
        return Gate("key", len(key.lacking), 0, "failed", hint)
    return Gate("key", 0, 0, "passed")


def _calls(evidence: Evidence) -> Gate:
    """The application does not depend on calls that Spectron cannot answer."""
    calls = evidence.calls
    if calls is None:
        if evidence.state.catch_up == "follow":
            return Gate("calls", "not measured", 0, "passed")
        return Gate("calls", "not measured", 0, "failed", "no process has counted its calls yet")
    if not calls:
        return Gate("calls", 0, 0, "passed")
    value = dict(sorted(calls.items()))
    gate = Gate("calls", value, 0, "failed", about=" ".join(value))
    named = ", ".join(f"{name} {count:,}" for name, count in value.items())
    hint = f"in the last {GATE_DAYS} days: {named}; cutover accept calls --reason … if the application can do without"
    return _as_accepted(gate, evidence.state, replace(gate, hint=hint))


_GATES: tuple[Callable[[Evidence], Gate], ...] = (
    _base,
    _delivered,
    _refused,
    _moved,
    _reconciled,
    _lag,
    _verdict,
    _leaks,
    _will_not_expire,
    _key,
    _calls,
)


def _by_id(gate: Gate, state: CutoverState, hint: str) -> Gate:
    """Passes where every memory that the gate is about was accepted by name, for what the gate says of it now."""
    if not gate.shown:
        return gate
    open_ids = state.open_at(gate.name, gate.shown)
    if open_ids:
        return replace(gate, outcome="failed", hint=f"{len(open_ids):,} of them are not accepted: {hint}")
    return replace(gate, accepted_by=_names([step for step in state.accepted if step.gate == gate.name]))


def _as_accepted(gate: Gate, state: CutoverState, otherwise: Gate) -> Gate:
    steps = [step for step in state.accepted if step.gate == gate.name and step.about == gate.about]
    return replace(gate, outcome="passed", accepted_by=_names(steps)) if steps else otherwise


def _names(steps: Sequence[Step]) -> str:
    return "; ".join(f"{step.who}, {step.at}: {step.why}" for step in steps)


def _age(now: datetime, then: str) -> float:
    """In seconds; what a clock that was ahead has dated in the future is as far from now as what is old."""
    return abs((now - datetime.fromisoformat(then)).total_seconds())
