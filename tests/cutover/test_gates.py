"""Every gate, failing and passing; what may be accepted, and for what exactly."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.cutover.evidence import Evidence, KeyGrants
from spectron_migrate.cutover.gate_result import GateResult
from spectron_migrate.cutover.gates import (
    ACCEPTABLE,
    GATES,
    evaluate_gates,
    exit_code_of,
    gates_before,
    prepare_acceptance,
)
from spectron_migrate.cutover.next_step import GatedStep
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.records import SourceInfo
from spectron_migrate.state.cutover_state import CutoverState, Step
from tests.cutover.support import AGREED, DUMP, FENCE, GOOD, LEDGER, REPORT, VERIFIED, at


def gate(name: str, evidence: Evidence) -> GateResult:
    return next(each for each in evaluate_gates(evidence) if each.name == name)


def with_ledger(**more: Any) -> Evidence:
    return replace(GOOD, ledger=replace(LEDGER, **more))


def test_with_everything_in_order_every_gate_passes() -> None:
    gates = evaluate_gates(GOOD)
    assert {"passed"} == {each.outcome for each in gates}
    assert ExitCode.DONE == exit_code_of(gates)
    assert all(each.hint == "" for each in gates)


FAILING: list[tuple[str, str, Evidence]] = [
    ("base", "no cutover has begun", replace(GOOD, state=CutoverState())),
    (
        "base",
        "was not asked whether one was completed",
        replace(GOOD, state=CutoverState(), unasked=True),
    ),
    ("base", "its journal, cutover.jsonl, is missing", replace(with_ledger(cutover="began"), state=CutoverState())),
    ("base", "no dump yet", replace(GOOD, dump=None)),
    ("base", "before the cutover began", replace(GOOD, dump=replace(DUMP, began=at(0)))),
    ("base", "before the cutover began", replace(GOOD, dump=replace(DUMP, began=FENCE))),
    ("delivered", "nothing was replayed", replace(GOOD, ledger=None)),
    ("delivered", "delivers it", with_ledger(left=Undecided(1, 0, 0))),
    ("delivered", "delivers it", with_ledger(left=Undecided(0, 1, 0))),
    ("delivered", "--resolve", with_ledger(left=Undecided(0, 0, 1))),
    ("refused", "1 not accepted", with_ledger(refused={"7": "400 no"})),
    ("moved", "1 not accepted", with_ledger(moved={"7": "user_id alice"})),
    ("reconciled", "not compared", replace(GOOD, reconciled=None)),
    ("reconciled", "not compared", replace(GOOD, reconciled=replace(AGREED, began=at(0)))),
    (
        "reconciled",
        "2 memories differ, among them 7",
        replace(GOOD, reconciled=replace(AGREED, agree=False, differences=2, named=("7", "8"))),
    ),
    ("reconciled", "max_age", replace(GOOD, max_age_s=100)),
    ("lag", "nothing follows", replace(GOOD, as_of=None)),
    ("lag", "is spectron-migrate replay --follow running", replace(GOOD, as_of=at(28))),
    ("verdict", "nothing was verified", replace(GOOD, report=None)),
    ("verdict", "another migration", replace(GOOD, report=replace(REPORT, migration="n"))),
    ("verdict", "the mapping is not", replace(GOOD, report=replace(REPORT, mapping="other"))),
    ("verdict", "the mapping is not", replace(GOOD, mapping="other")),
    ("verdict", "not replayed since", replace(GOOD, report=replace(REPORT, scan_began=None))),
    ("verdict", "not replayed since", replace(GOOD, report=replace(REPORT, scan_began=at(0)))),
    ("verdict", "max_age", replace(GOOD, max_age_s=599)),
    ("verdict", "max_age", replace(GOOD, report=replace(REPORT, began=at(4)))),
    ("verdict", "cannot be accepted", replace(GOOD, report=replace(REPORT, verdict="NO_GO"))),
    ("leaks", "not tested", replace(GOOD, report=None)),
    ("leaks", "never accepted", replace(GOOD, report=replace(REPORT, leaks=1))),
    ("marker", "may go unnoticed: 403 no grant", with_ledger(without_marker={"user": "403 no grant"})),
    ("will_not_expire", "1 not accepted", with_ledger(will_not_expire={"7": "2027-01-01"})),
    ("key", "401", replace(GOOD, key=KeyGrants(problem="401 bad key"))),
    (
        "key",
        "lacks 1 grant, the first: memory:read user/a",
        replace(GOOD, key=KeyGrants("me", ("memory:read user/a",))),
    ),
    ("calls", "get_all 3", replace(GOOD, calls={"get_all": 3})),
    ("calls", "no process", replace(GOOD, calls=None)),
    ("application", "attach it", replace(GOOD, last_reads={})),
    ("application", "attach it", replace(GOOD, last_reads={"web-1": "2026-11-22T09:29:59.000000Z"})),
    ("application", "attach it", replace(GOOD, last_reads={"web-1": "2027-11-22T09:29:59.000000Z"})),
    ("processes", "web-2/41 at", replace(GOOD, lost={"web-2/41": at(15)})),
    ("soak", "shift 100", replace(GOOD, state=replace(GOOD.state, all_read_since=None))),
    ("soak", "shorter than cutover.soak", replace(GOOD, soak_s=1201)),
]


@pytest.mark.parametrize(("name", "hint", "evidence"), FAILING, ids=[f"{each[0]}: {each[1]}" for each in FAILING])
def test_a_gate_that_fails_says_what_to_do_and_keeps_the_step_back(name: str, hint: str, evidence: Evidence) -> None:
    found = gate(name, evidence)
    assert "failed" == found.outcome
    assert not found.passed
    assert hint in found.hint
    assert ExitCode.NO_GO == exit_code_of(evaluate_gates(evidence))


def test_every_gate_has_evidence_that_fails_it() -> None:
    assert {each.name for each in GATES} == {name for name, _, _ in FAILING}


def test_the_help_of_accept_names_every_gate_that_can_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitCode.DONE == run(["cutover", "accept", "--help"])
    help_text = capsys.readouterr().out
    assert [] == [name for name in ACCEPTABLE if name not in help_text]


def test_evidence_dated_in_the_future_is_not_fresh() -> None:
    """Otherwise a clock that was a year ahead for one day would keep it fresh for a year."""
    a_year_later = replace(GOOD, now=GOOD.now - timedelta(days=365))
    passed = {gate.name for gate in evaluate_gates(a_year_later) if gate.passed}
    assert set() == passed & {"lag", "reconciled", "verdict"}


def test_incomplete_evidence_is_11_and_an_open_verdict_5_unless_something_failed() -> None:
    cut = replace(GOOD, dump=replace(DUMP, complete=False))
    filtered = replace(GOOD, dump=replace(DUMP, whole=False))
    undecided = replace(GOOD, report=replace(REPORT, verdict="INCONCLUSIVE"))
    for evidence, code in (
        (cut, ExitCode.INCOMPLETE),
        (filtered, ExitCode.INCOMPLETE),
        (undecided, ExitCode.INCONCLUSIVE),
        (replace(undecided, dump=cut.dump), ExitCode.INCOMPLETE),
        (replace(cut, as_of=None), ExitCode.NO_GO),
    ):
        assert code == exit_code_of(evaluate_gates(evidence))


def accepted(evidence: Evidence, name: str, *ids: str) -> Evidence:
    named, about = prepare_acceptance(evaluate_gates(evidence), name, ids)
    step = Step("accept", VERIFIED, "anna@host (1)", "seen by hand", gate=name, ids=named, about=about)
    return replace(evidence, state=replace(evidence.state, accepted=(*evidence.state.accepted, step)))


def test_refused_memories_are_accepted_one_by_one_and_new_ones_are_not_among_them() -> None:
    evidence = with_ledger(refused={"7": "400", "8": "413"})
    one = accepted(evidence, "refused", "7")
    assert "1 not accepted" in gate("refused", one).hint
    both = accepted(one, "refused", "8")
    assert gate("refused", both).passed
    accepted_by = gate("refused", both).accepted_by or ""
    assert accepted_by.startswith("anna@host (1), ")
    assert "seen by hand" in accepted_by
    assert gate("refused", accepted(evidence, "refused")).passed
    another = replace(both, ledger=replace(LEDGER, refused={"7": "400", "8": "413", "9": "422"}))
    assert not gate("refused", another).passed


def test_accepting_a_refused_memory_does_not_accept_a_later_text_of_it() -> None:
    evidence = accepted(with_ledger(refused={"7": "413 too large"}), "refused", "7")
    assert gate("refused", evidence).passed
    later = replace(evidence, ledger=replace(LEDGER, refused={"7": "422 another text, for another reason"}))
    assert "failed" == gate("refused", later).outcome


def test_memories_that_will_not_expire_are_accepted_as_they_are_now() -> None:
    evidence = accepted(with_ledger(will_not_expire={"7": "2027-01-01"}), "will_not_expire")
    assert gate("will_not_expire", evidence).passed
    later = replace(evidence, ledger=replace(LEDGER, will_not_expire={"7": "2027-01-01", "8": "2027-01-02"}))
    assert not gate("will_not_expire", later).passed


def test_an_inconclusive_verdict_is_accepted_for_that_report_alone() -> None:
    evidence = accepted(replace(GOOD, report=replace(REPORT, verdict="INCONCLUSIVE")), "verdict")
    assert gate("verdict", evidence).passed
    assert evidence.report is not None
    again = replace(evidence, report=replace(evidence.report, began=at(21), ended=at(22)))
    assert "inconclusive" == gate("verdict", again).outcome


def test_a_dump_of_which_nothing_shows_that_it_is_complete_is_accepted_by_name_and_one_with_gaps_never() -> None:
    unproven = replace(GOOD, dump=replace(DUMP, complete=None, whole=False))
    assert "inconclusive" == gate("base", unproven).outcome
    assert "cutover accept base" in gate("base", unproven).hint
    evidence = accepted(unproven, "base")
    assert gate("base", evidence).passed
    next_round = replace(DUMP, complete=None, whole=False, scan_id="the next", began=at(6))
    assert gate("base", replace(evidence, dump=next_round)).passed
    for other in (
        replace(DUMP, complete=False, whole=False),
        replace(DUMP, complete=None, whole=False, filters={"users": ["alice"]}),
        replace(DUMP, complete=None, whole=False, source=SourceInfo("oss", "elsewhere")),
        replace(DUMP, complete=None, whole=False, began=at(0)),
    ):
        assert not gate("base", replace(evidence, dump=other)).passed
    with pytest.raises(InputError, match="nothing to accept"):
        accepted(replace(GOOD, dump=replace(DUMP, complete=False)), "base")


def test_calls_are_accepted_by_name_not_by_number() -> None:
    evidence = accepted(replace(GOOD, calls={"get_all": 3}), "calls")
    assert gate("calls", replace(evidence, calls={"get_all": 900})).passed
    assert not gate("calls", replace(evidence, calls={"get_all": 3, "delete": 1})).passed
    assert gate("calls", replace(GOOD, calls={})).passed


def test_calls_that_nobody_counted_are_accepted_until_somebody_counts_them() -> None:
    evidence = accepted(replace(GOOD, calls=None), "calls")
    assert gate("calls", evidence).passed
    assert not gate("calls", replace(evidence, calls={"get_all": 3})).passed


def test_an_application_that_is_not_attached_is_accepted_by_name() -> None:
    evidence = accepted(replace(GOOD, last_reads={}), "application")
    assert "anna@host" in (gate("application", evidence).accepted_by or "")


def test_processes_that_fell_silent_are_accepted_one_by_one_and_only_until_they_return() -> None:
    evidence = accepted(replace(GOOD, lost={"web-1/1": at(15), "web-2/41": at(16)}), "processes", "web-1/1")
    assert "1 not accepted" in gate("processes", evidence).hint
    both = accepted(evidence, "processes", "web-2/41")
    assert gate("processes", both).passed
    silent_again = replace(both, lost={"web-1/1": at(15), "web-2/41": at(25)})
    assert not gate("processes", silent_again).passed


def test_processes_that_fell_silent_before_the_cutover_began_are_not_asked_for() -> None:
    assert gate("processes", replace(GOOD, lost={"web-2/41": at(0)})).passed


def test_a_soak_is_accepted_for_this_time_at_100_percent_alone() -> None:
    evidence = accepted(replace(GOOD, soak_s=86400), "soak")
    assert gate("soak", evidence).passed
    after_a_revert = replace(evidence, state=replace(evidence.state, all_read_since=at(25)))
    assert not gate("soak", after_a_revert).passed


def test_a_soak_of_0_s_passes_and_says_so() -> None:
    found = gate("soak", replace(GOOD, soak_s=0))
    assert found.passed
    assert "0s: none is asked for" == found.limit


@pytest.mark.parametrize(
    ("step", "missing"),
    [("shift", set()), ("all", {"application", "calls"}), ("complete", {"application", "calls", "processes", "soak"})],
)
def test_a_gate_holds_back_what_it_protects_and_nothing_before(step: GatedStep, missing: set[str]) -> None:
    evidence = replace(GOOD, last_reads={}, calls=None, lost={"web-2/41": at(15)}, soak_s=86400)
    assert missing == {each.name for each in gates_before(evaluate_gates(evidence), step) if not each.passed}


@pytest.mark.parametrize("name", ["delivered", "reconciled", "lag", "leaks", "key", "nonsense"])
def test_a_gate_that_must_pass_cannot_be_accepted(name: str) -> None:
    with pytest.raises(InputError) as refused:
        prepare_acceptance(evaluate_gates(GOOD), name, ())
    assert ", ".join(ACCEPTABLE) in (refused.value.hint or "")


def test_an_acceptance_of_nothing_of_a_no_go_or_of_other_memories_is_refused() -> None:
    no_go = evaluate_gates(replace(GOOD, report=replace(REPORT, verdict="NO_GO")))
    refused: list[tuple[list[GateResult], str, tuple[str, ...]]] = [
        (evaluate_gates(GOOD), "refused", ()),
        (evaluate_gates(GOOD), "verdict", ()),
        (no_go, "verdict", ()),
        (evaluate_gates(with_ledger(refused={"7": "400"})), "refused", ("8",)),
        (evaluate_gates(replace(GOOD, calls={"get_all": 1})), "calls", ("get_all",)),
    ]
    for gates, name, ids in refused:
        with pytest.raises(InputError):
            prepare_acceptance(gates, name, ids)
