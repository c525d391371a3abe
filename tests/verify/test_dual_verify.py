"""Verdicts of whole verifications: a good migration is a GO, an incomplete or wrong one is not."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump.opened import Dump
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.verify.dual_verify import run_dual_verify
from spectron_migrate.verify.options import VerifyOptions
from tests.support.here import server_here
from tests.support.proxy import misbehaving
from tests.support.spectron import memory, replay, write_raw
from tests.verify.rewriting_proxy import rewriting_answers
from tests.verify.support import (
    FILLED_TEXTS,
    HOBBIES,
    Filled,
    WordSearch,
    failed_gates,
    gate_named,
    named_findings,
    verify,
)

pytestmark = pytest.mark.slow


def test_an_untouched_spectron_is_a_go_each_time_it_is_verified(filled: Filled) -> None:
    for _ in range(2):
        summary = verify(filled.server, filled.state, [filled.dump])
        integrity = summary.report["measured"]["integrity"]
        assert "GO" == summary.verdict
        assert ExitCode.DONE == summary.exit_code
        assert 12 == integrity["expected"]
        assert 12 == integrity["present"]
        assert set() == named_findings(summary)


def test_the_newer_generation_of_the_service_is_verified_as_well(tmp_path: Path) -> None:
    with server_here(tmp_path / "spectron", context="newer", api="0.2.1") as server:
        rows = [memory(number, user, text) for user in ("anna", "bo") for number, text in enumerate(FILLED_TEXTS)]
        dump = write_raw(tmp_path / "all.json", rows)
        replay(server, tmp_path / "state", [dump])
        summary = verify(server, tmp_path / "state", [dump])
    gate = next(gate for gate in summary.gates if gate.name == "supersession")
    assert "GO" == summary.verdict
    assert gate.passed is True
    assert set() == named_findings(summary)


def test_an_incomplete_export_is_inconclusive_though_all_of_it_arrived(
    spectron: RunningServer, hobby_rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "half.json", hobby_rows[:2])
    replay(spectron, tmp_path / "state", [dump])
    monkeypatch.setattr(Dump, "complete", False)
    monkeypatch.setattr(Dump, "raw", False)
    summary = verify(spectron, tmp_path / "state", [dump])
    assert "INCONCLUSIVE" == summary.verdict
    assert gate_named(summary, "source").passed is None


def test_raw_files_leave_the_source_gate_unmeasured(
    spectron: RunningServer, hobby_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", hobby_rows)
    replay(spectron, tmp_path / "state", [dump])
    gate = gate_named(verify(spectron, tmp_path / "state", [dump]), "source")
    assert gate.measured is False
    assert "not measured: raw files do not prove that they hold all of Mem0; an export does" == gate.hint


def test_a_server_that_answers_every_user_with_all_memories_is_no_go(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{name}", text) for name in ("a", "b") for number, text in enumerate(HOBBIES[:2])]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    everything: dict[str, Any] = {}

    def mix(path: str, asked: Any, answer: Any) -> Any:
        if path.endswith("/query"):
            everything.update({json.dumps(hit["id"]): hit for hit in answer["hits"]})
            answer["hits"] = list(everything.values())[: asked["k"]]
        return answer

    with rewriting_answers(spectron.base_url, mix) as endpoint:
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=endpoint)
    assert "isolation" in failed_gates(summary)


def test_unusual_but_complete_memories_are_a_go(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    odd = [
        "Likes tea",
        "likes  TEA",
        "🦔 hedgehogs " + "🦔",
        "x" * 5000,
        "12345",
        "naïve café",
        "1. one\n2. two",
        "Likes tea",
    ]
    rows = [memory(number, user, text) for number, text in enumerate(odd * 3)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    summary = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=50), mem0=WordSearch(rows))
    assert [] == failed_gates(summary)
    assert "GO" == summary.verdict


def test_a_user_filter_limits_the_expected_memories(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, name) for name in (user, f"{user}2") for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(filters=Filters(users=frozenset({user}))))
    one = verify(spectron, tmp_path / "state", [dump], VerifyOptions(filters=Filters(users=frozenset({user}))))
    both = verify(spectron, tmp_path / "state", [dump])
    assert "GO" == one.verdict
    assert 3 == one.report["measured"]["integrity"]["expected"]
    assert "NO_GO" == both.verdict
    assert 3 == both.report["measured"]["integrity"]["missing"]


def test_a_verification_of_somebody_whom_nobody_knows_is_refused(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    replay(spectron, tmp_path / "state", [dump])
    with pytest.raises(InputError, match="has no memory of user 'nobody'"):
        verify(spectron, tmp_path / "state", [dump], VerifyOptions(filters=Filters(users=frozenset({"nobody"}))))


def test_the_dump_is_not_needed(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, f"{user}{number % 2}") for number in range(6)])
    replay(spectron, tmp_path / "state", [dump])

    async def run() -> object:
        api = SpectronApi(spectron.base_url, spectron.context, api_key=spectron.api_key)
        with Ledger.open_for_reading(tmp_path / "state") as ledger:
            async with api:
                summary = await run_dual_verify(
                    ledger=ledger,
                    api=api,
                    dump=None,
                    mapping=load_mapping(None),
                    mem0_search=None,
                    options=VerifyOptions(accepted_gates=frozenset({"source", "recall"})),
                    reporter=NullReporter(),
                    state=tmp_path / "elsewhere",
                    now=lambda: datetime.now(UTC),
                )
        return summary.verdict, summary.report["measured"]["integrity"]["present"]

    assert ("GO", 6) == asyncio.run(run())


def test_requests_are_repeated_when_the_server_fails_now_and_then(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(8)])
    replay(spectron, tmp_path / "state", [dump])
    with misbehaving(spectron.base_url) as proxy:
        proxy.choose = lambda seen: "500_before" if seen.number % 3 == 0 else "none"
        summary = verify(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert "GO" == summary.verdict
    assert set() == named_findings(summary)
