"""The gates of a cutover: what must hold before reads go to Spectron, and again before Mem0 is left.

`GATES` at the end of this file is the whole list, in the order in which an operator would fix them. To add a gate:

1. Decide what it evaluates. If `Evidence` (evidence.py) does not hold that yet, add a field and fill it in `gather`.
2. Write a function like `_lag` here, from `Evidence` to `GateResult`. It is pure: no files, no network, no clock.
   Return `passed(value, limit)`, `failed(value, limit, hint)`, or `not_yet` if nothing is wrong; the hint names the
   command that helps.
3. Add it to `GATES`. Its name is public: it is in the JSON of `cutover check` and in the journal. List it in
   docs/protocol.md, Cutover.
4. If an operator may accept what the gate shows, say so in `GATES` and define exactly what is accepted:
   `accept="by memory"` with `memories` in the result (like `_refused`), or `accept="as a whole"` with `about` in the
   result (like `_verdict`). Acceptances are recorded in the journal with who, when and why, and hold for exactly what
   the gate showed at that moment. Name it in the help of `cutover accept` (cli/cutover.py).
5. Say what it holds back: every shift towards Spectron (the default), the shift of all users, or `complete` alone.
   It holds back all later steps too.
6. Add evidence that fails it to `FAILING` in tests/cutover/test_gates.py.

`cutover check`, `shift`, `complete`, `accept` and their JSON take all gates from `GATES`; nothing else changes.
A leak, a verdict of NO_GO and memories that are not delivered yet can never be accepted. What was not measured does
not pass: it is accepted by name, or it holds back what the gate protects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from shlex import quote

from spectron_migrate.cutover.evidence import Evidence
from spectron_migrate.cutover.gate_result import (
    MOST_LISTED,
    CutoverGate,
    GateOutcome,
    GateResult,
    apply_acceptances,
    each_accepted,
    failed,
    not_yet,
    passed,
)
from spectron_migrate.cutover.next_step import GATED_STEPS, GatedStep
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger.cutover_note import describe_lost_journal
from spectron_migrate.records import Json, counted, name_first
from spectron_migrate.state.cutover_state import acceptance_mark
from spectron_migrate.state.processes import GATE_DAYS

ATTACHED_WITHIN_S = 3600.0
"""An application counts as attached if it has read through the adapter or the routing within this time."""


def evaluate_gates(evidence: Evidence) -> list[GateResult]:
    """The result of every gate, in the order of `GATES`, with acceptances applied."""
    return [
        apply_acceptances(gate, replace(gate.check(evidence), name=gate.name, holds=gate.holds), evidence.state)
        for gate in GATES
    ]


def gates_before(gates: Iterable[GateResult], step: GatedStep) -> list[GateResult]:
    """The gates that must pass before this step."""
    return [gate for gate in gates if GATED_STEPS.index(gate.holds) <= GATED_STEPS.index(step)]


def exit_code_of(gates: Iterable[GateResult]) -> ExitCode:
    """0 if all pass; else 4 if one failed, else 11 if one is incomplete, else 5."""
    outcomes = {gate.outcome for gate in gates}
    return next((code for outcome, code in _EXIT_CODES.items() if outcome in outcomes), ExitCode.DONE)


_EXIT_CODES: dict[GateOutcome, ExitCode] = {
    "failed": ExitCode.NO_GO,
    "incomplete": ExitCode.INCOMPLETE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


def prepare_acceptance(gates: Sequence[GateResult], name: str, ids: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The memories (none for a gate that is accepted as a whole) and the `about` with which an acceptance is recorded.

    Without `ids`, all memories that the gate shows now. Raises InputError for a gate that does not exist, cannot be
    accepted, has nothing to accept, or does not show these memories.
    """
    gate = next((each for each in gates if each.name == name), None)
    if gate is None or name not in ACCEPTABLE:
        raise InputError(
            f"the gate {name} cannot be accepted" if gate else f"there is no gate {name}",
            hint=f"these can be accepted: {', '.join(ACCEPTABLE)}",
        )
    if ids and name not in ACCEPTABLE_BY_MEMORY:
        hint = f"spectron-migrate cutover accept {name} --reason TEXT"
        raise InputError(f"the gate {name} is not about single memories", hint=hint)
    strangers = sorted(set(ids) - set(gate.memories))
    if strangers:
        raise InputError.of_all([f"the gate {name} is not about memory {each}" for each in strangers])
    if not gate.memories and not gate.about:
        if gate.passed:
            raise InputError(f"the gate {name} passes: there is nothing to accept")
        raise InputError(f"the gate {name} has nothing to accept yet", hint=gate.hint)
    chosen = tuple(ids or gate.memories)
    return chosen, " ".join(acceptance_mark(gate.memories[each]) for each in chosen) or gate.about


# -- the gates, in the order of GATES -----------------------------------------------------------------------


def _base(evidence: Evidence) -> GateResult:
    """The newest dump began after the fence and is complete, or it was accepted without proof that it is."""
    fence, dump = evidence.state.fence, evidence.dump
    began = dump.began if dump else None
    if fence is None:
        return _not_begun(evidence)
    if dump is None:
        return not_yet(began, fence, "there is no dump yet: spectron-migrate replay --follow")
    is_unproven = dump.completeness is None and not dump.filters
    if not is_unproven and not (dump.completeness and dump.whole):
        hint = "the newest dump is not complete: spectron-migrate export, without filters"
        return GateResult(began, fence, "incomplete", hint)
    if dump.began <= fence:
        return not_yet(began, fence, "Mem0 was read before the cutover began: spectron-migrate replay --follow")
    if is_unproven:
        hint = "nothing shows that Mem0 was read completely: spectron-migrate cutover accept base --reason TEXT"
        return GateResult(began, fence, "inconclusive", hint, about=f"not provable: {dump.source.identity}")
    return passed(began, fence)


def _not_begun(evidence: Evidence) -> GateResult:
    """The result if the state knows of no cutover: none has begun, or the state does not know of it."""
    began = evidence.dump.began if evidence.dump else None
    noted = evidence.ledger.cutover if evidence.ledger else None
    if noted is not None and not evidence.state.ever_began:
        return failed(began, None, f"{describe_lost_journal(noted)}: restore it from the backup that the ledger is of")
    if evidence.unasked:
        hint = "this state knows of no cutover, and Spectron was not asked whether one was completed"
        return not_yet(began, None, f"{hint}: spectron-migrate cutover check asks again")
    return not_yet(began, None, "no cutover has begun: spectron-migrate cutover start")


def _delivered(evidence: Evidence) -> GateResult:
    """Everything is delivered: nothing remains, is in doubt or is undecidable."""
    if evidence.ledger is None:
        return not_yet(None, 0, "nothing was replayed yet: spectron-migrate replay --follow")
    left = evidence.ledger.left
    value = {"remaining": left.remaining, "in_doubt": left.in_doubt, "undecidable": left.undecidable}
    if not left.total:
        return passed(value, 0)
    undecidable = "spectron-migrate status names it; replay --resolve ID=present (or =absent) decides it"
    return failed(value, 0, undecidable if left.undecidable else "spectron-migrate replay --follow delivers it")


def _refused(evidence: Evidence) -> GateResult:
    """Every memory that the server refused is accepted."""
    return each_accepted(
        evidence.ledger.refused if evidence.ledger else {},
        "review/refused.jsonl says why; fix it, then spectron-migrate replay --retry-failed;"
        " or spectron-migrate cutover accept refused=ID --reason TEXT",
    )


def _moved(evidence: Evidence) -> GateResult:
    """No memory is stored in Spectron under another owner than it has in Mem0."""
    return each_accepted(
        evidence.ledger.moved if evidence.ledger else {},
        "their ids were edited in Mem0 after they were sent, and Spectron cannot move a memory: both owners are read"
        " from Mem0; undo the edit, or spectron-migrate cutover accept moved=ID --reason TEXT",
    )


def _reconciled(evidence: Evidence) -> GateResult:
    """Two scans of Mem0 in a row agree with the ledger."""
    last, fence, limit = evidence.reconciled, evidence.state.fence, "two readings agree"
    hint = "spectron-migrate replay --follow compares on its own, and so does every shift"
    if last is None or fence is None or last.began <= fence:
        return not_yet(None, limit, f"not compared since the cutover began: {hint}")
    value = {"agree": last.agree, "differences": last.differences, "at": last.ended}
    if not last.agree:
        examples = f", among them {', '.join(last.named[:3])}" if last.named else ""
        differ = counted(last.differences, "memory differs", "memories differ")
        return failed(value, limit, f"{differ}{examples}: {hint}")
    if _age_s(evidence.now, last.ended) > evidence.max_age_s:
        return not_yet(value, limit, f"the last comparison is older than max_age: {hint}")
    return passed(value, limit)


def _lag(evidence: Evidence) -> GateResult:
    """Following keeps up with Mem0."""
    if evidence.as_of is None:
        return not_yet(None, evidence.max_lag_s, "nothing follows Mem0: spectron-migrate replay --follow")
    lag_s = round(_age_s(evidence.now, evidence.as_of), 1)
    if lag_s <= evidence.max_lag_s:
        return passed(lag_s, evidence.max_lag_s)
    if evidence.undrained is not None:
        return failed(lag_s, evidence.max_lag_s, evidence.undrained)
    hint = "is spectron-migrate replay --follow running? if its rounds take longer, raise cutover.max_lag"
    return failed(lag_s, evidence.max_lag_s, hint)


def _verdict(evidence: Evidence) -> GateResult:
    """The newest dual-verify says GO about this migration as it is now."""
    report, ledger, fence = evidence.report, evidence.ledger, evidence.state.fence
    again = "spectron-migrate dual-verify"
    if report is None:
        return not_yet(None, "GO", f"nothing was verified yet: {again}")
    stale = None
    if ledger is None or report.migration != ledger.migration:
        stale = f"the newest report is about another migration: {again}"
    elif report.mapping != ledger.mapping or evidence.mapping != ledger.mapping:
        stale = f"the mapping is not the one that was verified: replay, then {again}"
    elif not report.whole:
        stale = f"the newest report covers some users only: {again}, without --user"
    elif report.scan_began is None or (fence is not None and report.scan_began <= fence):
        stale = f"the newest report is based on a dump not replayed since the cutover began: {again}"
    elif report.began < report.scan_began or _age_s(evidence.now, report.ended) > evidence.max_age_s:
        stale = f"the newest report is older than cutover.max_age: {again}"
    if stale is not None:
        return not_yet(report.verdict, "GO", stale)
    if report.verdict == "GO":
        return passed(report.verdict, "GO")
    details = "dual-verify.json in the state directory says why"
    if report.verdict != "INCONCLUSIVE":
        return failed(report.verdict, "GO", f"{details}; it cannot be accepted")
    hint = f"{details}; more queries may decide it, or spectron-migrate cutover accept verdict --reason TEXT"
    return GateResult(report.verdict, "GO", "inconclusive", hint, about=report.digest)


def _leaks(evidence: Evidence) -> GateResult:
    """No user sees another user's memories."""
    report = evidence.report
    if report is None:
        return not_yet(None, 0, "isolation was not tested yet: spectron-migrate dual-verify")
    if not report.whole:
        return not_yet(None, 0, "isolation was tested for some users only: spectron-migrate dual-verify")
    if report.leaks:
        return failed(report.leaks, 0, "a user can read another user's memories; this is never accepted")
    return passed(0, 0)


def _will_not_expire(evidence: Evidence) -> GateResult:
    """Every memory that expires in Mem0, and would stay in Spectron for good, is accepted."""
    hint = "they expire in Mem0 and stay in Spectron: spectron-migrate cutover accept will_not_expire --reason TEXT"
    return each_accepted(evidence.ledger.will_not_expire if evidence.ledger else {}, hint)


def _key(evidence: Evidence) -> GateResult:
    """The API key works, and may read and write every scope of the migration."""
    key = evidence.key
    if key.problem is not None:
        return failed(None, "read and write", key.problem)
    if key.lacking:
        hint = f"{key.principal} lacks {counted(len(key.lacking), 'grant')}, the first: {key.lacking[0]}"
        return failed(len(key.lacking), 0, hint)
    return passed(0, 0)


def _marker(evidence: Evidence) -> GateResult:
    """Runs can mark the server, or somebody accepted that a copy or an old backup of the ledger may go unnoticed."""
    lacking = evidence.ledger.without_marker if evidence.ledger else {}
    why = next(iter(lacking.values()), "")
    return each_accepted(lacking, f"an old or copied ledger may go unnoticed: {why}; grant that, or accept it")


def _calls(evidence: Evidence) -> GateResult:
    """The application made no recent calls that Spectron cannot answer."""
    calls = evidence.calls
    if calls is None:
        hint = (
            "no process of the application counts its calls; attach it (docs/routing.md), or if you know that it makes"
            " none of them: spectron-migrate cutover accept calls --reason TEXT"
        )
        return not_yet("not measured", 0, hint, about="not measured")
    if not calls:
        return passed(0, 0)
    value = dict(sorted(calls.items()))
    counts = ", ".join(f"{name} {count:,}" for name, count in value.items())
    hint = (
        f"in the last {GATE_DAYS} days: {counts}; if the application can do without them:"
        " spectron-migrate cutover accept calls --reason TEXT"
    )
    return GateResult(value, 0, "failed", hint, about=" ".join(value))


def _application(evidence: Evidence) -> GateResult:
    """The application has recently read through the adapter or the routing file; otherwise a shift moves nobody."""
    limit = "a read within 1 h"
    attached = {
        host: at for host, at in sorted(evidence.last_reads.items()) if _age_s(evidence.now, at) <= ATTACHED_WITHIN_S
    }
    if attached:
        return passed(attached, limit)
    hint = (
        "no application reads through the adapter or routing.json, so it would go on with Mem0 alone: attach it"
        " (docs/routing.md), or if none is to be attached: spectron-migrate cutover accept application --reason TEXT"
    )
    silent = {host: f"last read at {at}" for host, at in sorted(evidence.last_reads.items())[:MOST_LISTED]}
    return not_yet(silent or "none seen", limit, hint, about="not attached")


def _processes(evidence: Evidence) -> GateResult:
    """No process of the application has stopped reporting.

    If one still runs, it does not learn that Mem0 is no longer used.
    """
    fence = evidence.state.fence
    lost = {name: at for name, at in evidence.lost.items() if fence is not None and at >= fence}
    hint = (
        f"without saying that they ended: {', '.join(f'{name} at {at}' for name, at in sorted(lost.items())[:3])};"
        " make sure that they no longer run, then spectron-migrate cutover accept processes=HOST/PID --reason TEXT"
    )
    return each_accepted(lost, hint)


def _soak(evidence: Evidence) -> GateResult:
    """All users have been read from Spectron for long enough."""
    since, soak_s = evidence.state.all_read_since, evidence.soak_s
    limit: Json = soak_s if soak_s else "0s: none is asked for"
    if since is None:
        pinned = sorted(evidence.state.pinned_to_mem0) if evidence.state.percent == 100 else []
        who = f", and {name_first(pinned)} {'is' if len(pinned) == 1 else 'are'} pinned to Mem0" if pinned else ""
        step = f" --user {quote(pinned[0])}" if pinned else ""
        return not_yet(
            None, limit, f"begins when all users are read from Spectron{who}: spectron-migrate cutover shift 100{step}"
        )
    soaked_s = round((evidence.now - datetime.fromisoformat(since)).total_seconds(), 1)
    if soaked_s >= soak_s:
        return passed(soaked_s, limit)
    hint = (
        f"all users have been read from Spectron since {since}, which is shorter than cutover.soak; wait, or"
        " spectron-migrate cutover accept soak --reason TEXT"
    )
    return not_yet(soaked_s, limit, hint, about=f"since {since}")


def _age_s(now: datetime, then: str) -> float:
    """Seconds between the two times, also if `then` is in the future because a clock was ahead."""
    return abs((now - datetime.fromisoformat(then)).total_seconds())


GATES: tuple[CutoverGate, ...] = (
    CutoverGate("base", _base, accept="as a whole"),
    CutoverGate("delivered", _delivered),
    CutoverGate("refused", _refused, accept="by memory"),
    CutoverGate("moved", _moved, accept="by memory"),
    CutoverGate("reconciled", _reconciled),
    CutoverGate("lag", _lag),
    CutoverGate("verdict", _verdict, accept="as a whole"),
    CutoverGate("leaks", _leaks),
    CutoverGate("will_not_expire", _will_not_expire, accept="by memory"),
    CutoverGate("key", _key),
    CutoverGate("marker", _marker, accept="by memory"),
    CutoverGate("application", _application, accept="as a whole", holds="all"),
    CutoverGate("calls", _calls, accept="as a whole", holds="all"),
    CutoverGate("processes", _processes, accept="by memory", holds="complete"),
    CutoverGate("soak", _soak, accept="as a whole", holds="complete"),
)

ACCEPTABLE = tuple(gate.name for gate in GATES if gate.accept != "never")
ACCEPTABLE_BY_MEMORY = tuple(gate.name for gate in GATES if gate.accept == "by memory")
