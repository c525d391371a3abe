"""Every gate, failing and passing; what may be accepted, and for what exactly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from spectron_migrate.cutover.evidence import Evidence, KeyGrants, LedgerEvidence, VerificationReport
from spectron_migrate.cutover.gates import ACCEPTABLE, GateResult, evaluate_gates, exit_code_of, prepare_acceptance
from spectron_migrate.dump import Manifest
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger.read.cutover import Undecided
from spectron_migrate.migration.reconcile import Reconciled
from spectron_migrate.records import SourceInfo
from spectron_migrate.state.journal import CutoverState, Step


def at(minute: int) -> str:
    return f"2026-11-22T10:{minute:02d}:00.000000Z"


FENCE, SCANNED, VERIFIED = at(1), at(5), at(20)
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)

DUMP = Manifest(
    tool="",
    source=SourceInfo("oss", "here"),
    native_count=3,
    began=SCANNED,
    ended=SCANNED,
    scan_id="",
    scan_began=SCANNED,
    complete=True,
    whole=True,
    memories=3,
    users={},
    agents=0,
    runs=0,
    skipped={},
)
LEDGER = LedgerEvidence("m", "mapping", Undecided(0, 0, 0), {}, {})
REPORT = VerificationReport("GO", "m", "mapping", at(19), VERIFIED, leaks=0, scan_began=SCANNED)
AGREED = Reconciled(True, True, at(26), at(27), rounds=2, memories=3, waiting=0, differences=0)
GOOD = Evidence(
    state=CutoverState(phase="started", migration="m", fence=FENCE),
    now=NOW,
    max_lag_s=60,
    max_age_s=86400,
    mapping="mapping",
    dump=DUMP,
    ledger=LEDGER,
    as_of="2026-11-22T10:29:30.000000Z",
    reconciled=AGREED,
    report=REPORT,
    key=KeyGrants("me"),
)


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
    ("base", "no dump yet", replace(GOOD, dump=None)),
    ("base", "before the cutover began", replace(GOOD, dump=replace(DUMP, began=at(0)))),
    ("base", "before the cutover began", replace(GOOD, dump=replace(DUMP, began=FENCE))),
    ("delivered", "nothing was replayed", replace(GOOD, ledger=None)),
    ("delivered", "delivers it", with_ledger(left=Undecided(1, 0, 0))),
    ("delivered", "delivers it", with_ledger(left=Undecided(0, 1, 0))),
    ("delivered", "--resolve", with_ledger(left=Undecided(0, 0, 1))),
    ("refused", "1 of them are not accepted", with_ledger(refused={"7": "400 no"})),
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
    ("will_not_expire", "1 of them", with_ledger(will_not_expire={"7": "2027-01-01"})),
    ("key", "401", replace(GOOD, key=KeyGrants(problem="401 bad key"))),
    (
        "key",
        "lacks 1 grant, the first: memory:read user/a",
        replace(GOOD, key=KeyGrants("me", ("memory:read user/a",))),
    ),
    ("calls", "get_all 3", replace(GOOD, calls={"get_all": 3})),
    ("calls", "no process", replace(GOOD, state=replace(GOOD.state, catch_up="outbox"))),
]


@pytest.mark.parametrize(("name", "hint", "evidence"), FAILING, ids=[f"{each[0]}: {each[1]}" for each in FAILING])
def test_a_gate_that_fails_says_what_to_do_and_keeps_the_step_back(name: str, hint: str, evidence: Evidence) -> None:
    found = gate(name, evidence)
    assert ("failed", False) == (found.outcome, found.passed)
    assert hint in found.hint
    assert ExitCode.NO_GO == exit_code_of(evaluate_gates(evidence))


def test_what_is_not_complete_is_11_and_what_is_undecided_5_unless_something_failed() -> None:
    cut = replace(GOOD, dump=replace(DUMP, complete=False))
    filtered = replace(GOOD, dump=replace(DUMP, whole=False))
    shard = replace(GOOD, missing="1 shards have no ledger here: 1/2")
    undecided = replace(GOOD, report=replace(REPORT, verdict="INCONCLUSIVE"))
    for evidence, code in (
        (cut, ExitCode.INCOMPLETE),
        (filtered, ExitCode.INCOMPLETE),
        (shard, ExitCode.INCOMPLETE),
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
    assert "1 of them are not accepted" in gate("refused", one).hint
    both = accepted(one, "refused", "8")
    assert (True, "anna@host (1)") == (
        gate("refused", both).passed,
        (gate("refused", both).accepted_by or "")[:13],
    )
    assert "seen by hand" in (gate("refused", both).accepted_by or "")
    assert gate("refused", accepted(evidence, "refused")).passed
    later = replace(both, ledger=replace(LEDGER, refused={"7": "400", "8": "413", "9": "422"}))
    assert not gate("refused", later).passed


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


def test_calls_are_accepted_by_name_not_by_number() -> None:
    evidence = accepted(replace(GOOD, calls={"get_all": 3}), "calls")
    assert gate("calls", replace(evidence, calls={"get_all": 900})).passed
    assert not gate("calls", replace(evidence, calls={"get_all": 3, "delete": 1})).passed
    assert gate("calls", replace(GOOD, calls={})).passed


@pytest.mark.parametrize("name", ["base", "delivered", "reconciled", "lag", "leaks", "key", "nonsense"])
def test_what_must_hold_cannot_be_accepted(name: str) -> None:
    with pytest.raises(InputError) as refused:
        prepare_acceptance(evaluate_gates(GOOD), name, ())
    assert ", ".join(ACCEPTABLE) in (refused.value.hint or "")


def test_an_acceptance_of_nothing_of_a_no_go_or_of_strangers_is_refused() -> None:
    no_go = evaluate_gates(replace(GOOD, report=replace(REPORT, verdict="NO_GO")))
    for gates, name, ids in (
        (evaluate_gates(GOOD), "refused", ()),
        (evaluate_gates(GOOD), "verdict", ()),
        (no_go, "verdict", ()),
        (evaluate_gates(with_ledger(refused={"7": "400"})), "refused", ("8",)),
        (evaluate_gates(replace(GOOD, calls={"get_all": 1})), "calls", ("get_all",)),
    ):
        with pytest.raises(InputError):
            prepare_acceptance(gates, name, ids)
