"""What the chaos and the stateful test found, each in as few requests as show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.migration.replay import ReplaySummary
from tests.support.oracle import ledger_facts, server_turns, strangers
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import memory, replay, write_raw


def two_turns_of_one_fact(server: RunningServer, state: Path, dump: Path) -> ReplaySummary:
    """A run that ends between the second turn of one memory, which a forgotten key made, and its decision."""
    writes = 0

    def choose(seen: Seen) -> Fault:
        nonlocal writes
        if seen.writes_fact and b"number 1" in seen.body:
            writes += 1
            return {1: "cut_in_headers", 2: "cut_after_released"}.get(writes, "none")
        return "400" if seen.path.endswith("/turns") and writes >= 3 else "none"

    with misbehaving(server.base_url, choose) as proxy:
        return replay(server, state, [dump], endpoint=proxy.base_url)


@pytest.mark.parametrize("hours", [0, 25])
def test_a_second_turn_that_a_resend_left_is_residue_also_where_the_run_ended_before_it_was_noted(
    user: str, tmp_path: Path, hours: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with running_server(tmp_path / "data", context="tests", fault_settings={}) as server:
        first = two_turns_of_one_fact(server, tmp_path / "state", dump)
        server.change_faults(ahead_s=hours * 3600)
        second = replay(server, tmp_path / "state", [dump])
        assert (ExitCode.UNREACHABLE, 1) == (first.exit_code, first.in_doubt)
        assert (ExitCode.DONE, 3, 0) == (second.exit_code, second.written + second.already, second.undecidable)
        facts = ledger_facts(tmp_path / "state")
        assert [1] == [len(json.loads(fact["residue"])) for fact in facts if fact["residue"]]
        turns = {turn.id: turn for turn in server_turns(server.database)}
        assert [] == list(strangers(facts, turns, finished=True))
