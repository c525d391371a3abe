"""What a person accepted at a gate of the cutover counts in the verdict, for exactly what it was."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.cutover import refused_memories
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.state.cutover_state import Step, acceptance_mark
from spectron_migrate.state.journal import record_step
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import failed_gates, verify

AT = "2026-05-04T12:00:00.000000Z"


def accept_refused(state: Path, mem0_id: str, shown: str) -> None:
    record_step(state, Step("start", AT, "root", migration="m"))
    about = acceptance_mark(shown)
    record_step(state, Step("accept", AT, "root", why="spam", gate="refused", ids=(mem0_id,), about=about))


def test_a_refused_memory_counts_as_accepted_only_for_what_the_gate_showed(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    def refuse(seen: Seen) -> Fault:
        return refusing(422, "not this one") if b"number 1" in seen.body else "none"

    state = tmp_path / "state"
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with misbehaving(spectron.base_url, refuse) as proxy:
        replay(spectron, state, [dump], endpoint=proxy.base_url)
    with Ledger.open_for_reading(state) as ledger:
        refused = refused_memories(ledger)
    assert [f"{user}-0001"] == list(refused)
    assert ["missing"] == failed_gates(verify(spectron, state, [dump]))
    accept_refused(state, f"{user}-0001", "another refusal")
    assert ["missing"] == failed_gates(verify(spectron, state, [dump]))
    record_step(state, Step("abort", AT, "root"))
    accept_refused(state, f"{user}-0001", refused[f"{user}-0001"])
    summary = verify(spectron, state, [dump])
    assert "GO" == summary.verdict
    assert [f"{user}-0001"] == summary.report["options"]["accepted"]
