"""After a NO_GO the worst finding decides what is next: a command that fixes it, or to stop and where to read on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.verify_next import REWRITE, VERIFY, WayOn, way_on

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
AGAIN = "spectron-migrate dual-verify --accept asked"
ERASE = "spectron-migrate erase --migration 0123456789abcdef --scope user/anna"


def report(*failed: str, findings: dict[str, str] | None = None, lost: str | None = None) -> dict[str, Any]:
    """A report in which these gates failed. `findings`: memory -> kind, with the reason after a colon."""
    rows = []
    for mem0_id, kind in (findings or {}).items():
        name, _, reason = kind.partition(": ")
        rows.append({"kind": name, "id": mem0_id, "reason": reason, "where": ""})
    return {
        "gates": [{"name": name, "passed": False, "accepted": False} for name in failed],
        "findings": rows,
        "answers": [{"differences": [{"id": lost, "why": "lost"}]}] if lost else [],
    }


def after(found: dict[str, Any], *, is_followed: bool = False, erase: str | None = ERASE) -> WayOn:
    return way_on(found, again=AGAIN, is_followed=is_followed, erase_command=lambda _: erase)


@pytest.mark.parametrize(
    ("gate", "kind"),
    [
        ("isolation", "leak"),
        ("misplaced", "misplaced"),
        ("facts", "misplaced_fact"),
        ("doubled", "doubled"),
        ("altered", "altered"),
    ],
)
def test_what_no_command_mends_says_stop_and_explains_the_memory(gate: str, kind: str) -> None:
    found = after(report("missing", gate, findings={"m1": "missing: planned, not sent yet", "m 2": kind}))
    assert "spectron-migrate explain 'm 2'" == found.next
    assert found.stop.endswith(f"No command fixes that: see the gate {gate} in docs/runbook.md, {VERIFY}")
    assert {} == found.choices


def test_turns_of_others_belong_to_no_memory_that_could_be_explained() -> None:
    found = after(report("foreign"))
    assert found.next is None
    assert found.stop


def test_a_leak_comes_before_everything_else() -> None:
    found = after(report("doubled", "isolation", findings={"m1": "doubled", "m2": "leak"}))
    assert "spectron-migrate explain m2" == found.next


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("planned, not sent yet", "spectron-migrate replay"),
        ("in doubt: sent, not decided", "spectron-migrate replay"),
        ("never planned: the replay left it out", "spectron-migrate replay"),
        ("refused (400)", "spectron-migrate status"),
        ("undecidable", "spectron-migrate status"),
        ("its turn is not listed (its older version 1)", "spectron-migrate replay --adopt --dry-run"),
        ("its session lists no turns", "spectron-migrate replay --adopt --dry-run"),
    ],
)
def test_missing_memories_lead_to_what_sends_them(reason: str, command: str) -> None:
    found = after(report("missing", "lost", findings={"m1": f"missing: {reason}"}, lost="m1"))
    assert WayOn(command) == found


def test_while_a_replay_follows_no_other_one_sends_what_is_missing() -> None:
    found = after(report("missing", findings={"m1": "missing: planned, not sent yet"}), is_followed=True)
    assert WayOn("spectron-migrate status") == found


@pytest.mark.parametrize("reason", ["no mapping rule matches it: {}", "no passage holds its text from letter 90 on"])
def test_a_missing_memory_that_no_replay_sends_is_explained(reason: str) -> None:
    found = after(report("missing", findings={"m1": f"missing: {reason}", "m2": "missing: planned, not sent yet"}))
    assert "spectron-migrate explain m1" == found.next
    assert found.stop


@pytest.mark.parametrize(("gate", "kind"), [("order", "order"), ("supersession", "superseded_wrongly")])
def test_a_wrong_order_leads_to_what_an_erase_would_take(gate: str, kind: str) -> None:
    found = after(report(gate, findings={"m1": kind}))
    assert f"{ERASE} --dry-run" == found.next
    assert found.stop.endswith(f"docs/runbook.md, {REWRITE}")
    found = after(report(gate, findings={"m1": kind}), erase=None)
    assert "spectron-migrate explain m1" == found.next
    assert found.stop.endswith(f"docs/runbook.md, {REWRITE}")


def test_worse_recall_has_no_command_and_a_memory_that_is_lost_is_explained() -> None:
    found = after(report("recall", "overlap"))
    assert found.next is None
    assert "Read the differences" in found.stop
    assert "spectron-migrate explain m9" == after(report("recall", "lost", lost="m9")).next


def test_only_leftover_turns_are_a_choice_with_what_was_accepted_before() -> None:
    found = after(report("residue"))
    assert ([f"{AGAIN} --accept residue"], None, "") == ([*found.choices], found.next, found.stop)


def test_the_sections_that_are_named_are_on_the_page() -> None:
    assert f"\n## {VERIFY}\n" in RUNBOOK
    assert f"\n### {REWRITE}\n" in RUNBOOK
