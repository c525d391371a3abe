"""Gates that pass are one line; each other one has its reason and its command below it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from spectron_migrate.cli.gates_screen import draw_gates, value_text
from spectron_migrate.cutover.gate_result import GateResult


def gate(name: str, outcome: Any = "passed", **more: Any) -> GateResult:
    plain = {"value": 0, "limit": 0, "hint": "", "holds": "shift", **more}
    return GateResult(name=name, outcome=outcome, **plain)


def shown(gates: list[GateResult], needed: list[GateResult]) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    for part in draw_gates(gates, needed):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_all_gates_that_pass_are_one_line() -> None:
    assert ["All gates pass: base, lag"] == shown([gate("base"), gate("lag")], [])


def test_a_gate_that_only_a_later_step_needs_is_no_failure_yet() -> None:
    soak = gate("soak", "failed", value=None, holds="complete", hint="it begins later")
    lines = ["All gates pass that the next step needs: base", "soak: before complete", "  it begins later"]
    assert lines == shown([gate("base"), soak], [gate("base")])


def test_what_the_next_step_needs_comes_first_with_figures_reason_and_command() -> None:
    soak = gate("soak", "failed", value=None, holds="complete", hint="it begins later")
    lag = gate("lag", "failed", value=134.0, limit=60.0, hint="is it running? spectron-migrate status")
    lines = shown([soak, lag, gate("base")], [lag])
    assert "1 of 3 gates pass: base" == lines[0]
    assert "lag: FAILED, 2 min 14 s (wanted: 1 min)" == lines[1]
    assert "  is it running? spectron-migrate status" == lines[2]
    assert "soak: before complete" == lines[3]


def test_a_gate_that_only_waits_is_no_failure() -> None:
    """After a shift of all users nothing is wrong: a day has to pass."""
    soak = gate("soak", "failed", value=1.0, limit=86400.0, holds="complete", hint="wait", is_early=True)
    verdict = gate("verdict", "failed", value="GO", limit="GO", hint="verify again", is_early=True)
    lines = shown([soak, verdict], [soak, verdict])
    assert "soak: not yet, 1 s of 1 d" == lines[1]
    assert "verdict: not yet" == lines[3]


def test_gates_of_later_steps_are_one_line_where_they_are_not_asked_for() -> None:
    late = [gate("calls", "failed", holds="all", hint="x"), gate("soak", "failed", holds="complete", hint="y")]
    file = io.StringIO()
    for part in draw_gates([gate("base"), *late], [gate("base")], later_in_full=False):
        Console(file=file, width=80).print(part)
    assert "later, before a shift of all users: calls; before complete: soak" == file.getvalue().splitlines()[1]


def test_a_state_is_a_colour_and_a_word() -> None:
    def styles(gates: list[GateResult], needed: list[GateResult]) -> list[tuple[str, str]]:
        return [(str(part).split("\n")[0], str(part.style)) for part in draw_gates(gates, needed)]  # type: ignore[union-attr]

    failed, open_ = gate("lag", "failed"), gate("verdict", "inconclusive")
    assert ("All gates pass: base", "bold green") in styles([gate("base")], [])
    shown = styles([failed, open_, gate("soak", limit="0s: none is asked for")], [failed, open_])
    assert ("lag: FAILED, 0 (wanted: 0)", "red") in [(text.replace("1 s", "0"), style) for text, style in shown]
    assert ("verdict: undecided, 0 (wanted: 0)", "yellow") in shown
    assert ("  soak: 0s: none is asked for", "yellow") in shown


def test_a_value_is_told_in_words() -> None:
    assert "remaining 1,204, in doubt 0" == value_text({"remaining": 1204, "in_doubt": 0})
    assert "2026-11-30 07:09:09" == value_text("2026-11-30T07:09:09.000000Z")
    assert "-" == value_text(None)
