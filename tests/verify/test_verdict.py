"""The verdict follows from the report alone, errs on the safe side, and says how many more queries it needs."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.metrics import Metrics, collect_metrics
from spectron_migrate.verify.options import VerifyOptions
from spectron_migrate.verify.verdict import ACCEPTABLE, EXIT_CODES, VerdictGate, gates_of, verdict_of
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import WordSearch, tampering, verify

pytestmark = pytest.mark.slow

OPTIONS = VerifyOptions(accepted_gates=frozenset({"recall"})).to_json()
NOTHING_ACCEPTED = VerifyOptions().to_json()


CLEAN = {
    "expected": 10,
    "present": 10,
    "missing": 0,
    "altered": 0,
    "masked": 0,
    "doubled": 0,
    "foreign": 0,
    "misplaced": 0,
    "untestable": 0,
    "order": 0,
    "superseded_wrongly": 0,
    "residue": 0,
    "expiring": 0,
    "pending": 0,
    "supersession_told": True,
}


def measured(metrics: Metrics | None = None, *, everything: bool = False, **integrity: int) -> dict[str, Any]:
    recall = None
    if metrics is not None:
        values = metrics.to_json(margin=0.02, everything=everything)
        recall = {"mem0": "mem0ai", "made_of": "the memories", "metrics": values, "explained": dict(metrics.explained)}
    return {
        "dump": {"complete": True, "whole": True, "raw": False},
        "integrity": {**CLEAN, **integrity},
        "isolation": {"pairs": 3, "leaks": 0, "suspects": 0},
        "recall": recall,
    }


def answer(owner: str, mem0: float, spectron: float) -> dict[str, Any]:
    side = {"hits": [], "error": None, "ms": 1.0, "ranking": []}
    return {
        "owner": owner,
        "mem0": side,
        "spectron": side,
        "excused": None,
        "differences": [],
        "measures": {
            "mem0": {"success": mem0, "reciprocal_rank": mem0, "ndcg": mem0},
            "spectron": {"success": spectron, "reciprocal_rank": spectron, "ndcg": spectron},
            "overlap": 1.0,
            "rbo": 1.0,
        },
    }


def measured_without(part: str) -> dict[str, Any]:
    """What a clean verification measured, but for one part."""
    metrics = collect_metrics(answer(f"u{number}", 1.0, 1.0) for number in range(400))
    return {**measured(metrics), part: None}


@pytest.mark.parametrize(
    ("integrity", "expected"),
    [
        ({}, "GO"),
        ({"missing": 1}, "NO_GO"),
        ({"altered": 1}, "NO_GO"),
        ({"doubled": 1}, "NO_GO"),
        ({"foreign": 1}, "NO_GO"),
        ({"misplaced": 1}, "NO_GO"),
        ({"order": 1}, "NO_GO"),
        ({"superseded_wrongly": 1}, "NO_GO"),
        ({"residue": 1}, "NO_GO"),
        ({"pending": 1}, "INCONCLUSIVE"),
        ({"pending": 1, "missing": 1}, "NO_GO"),
        ({"untestable": 1}, "GO"),
        ({"untestable": 2}, "INCONCLUSIVE"),
        ({"expected": 0, "present": 0}, "INCONCLUSIVE"),
    ],
)
def test_a_single_finding_decides_the_verdict(integrity: dict[str, int], expected: str) -> None:
    assert expected == verdict_of(gates_of(measured(**integrity), OPTIONS))


@pytest.mark.parametrize(
    ("read", "passed", "verdict"),
    [
        ({"complete": True, "whole": True, "raw": False}, True, "GO"),
        ({"complete": True, "whole": False, "raw": False}, True, "GO"),
        ({"complete": False, "whole": False, "raw": False}, None, "INCONCLUSIVE"),
        ({"complete": None, "whole": False, "raw": True}, None, "INCONCLUSIVE"),
        (None, None, "INCONCLUSIVE"),
    ],
)
def test_an_incomplete_source_is_inconclusive(read: Any, passed: bool | None, verdict: str) -> None:
    found = {**measured(), "dump": read}
    gate = gates_of(found, OPTIONS)[0]
    assert "source" == gate.name
    assert passed == gate.passed
    assert verdict == verdict_of(gates_of(found, OPTIONS))


def test_the_recall_gate_is_undecided_if_mem0_itself_finds_nothing() -> None:
    metrics = collect_metrics(answer(f"u{number}", float(number % 20 == 0), 1.0) for number in range(400))
    gate = next(gate for gate in gates_of(measured(metrics), OPTIONS) if gate.name == "recall")
    assert gate.passed is None
    assert "Mem0 itself finds only 5% of them: are its store and embedder right?" == gate.hint
    assert "INCONCLUSIVE" == verdict_of(gates_of(measured(metrics), NOTHING_ACCEPTED))


@pytest.mark.parametrize(("accepted", "verdict"), [((), "INCONCLUSIVE"), (("asked",), "GO")])
def test_queries_that_no_lens_can_serve_are_undecided_until_accepted(accepted: tuple[str, ...], verdict: str) -> None:
    why = "a filter by agent_id cannot be served: rule 1 writes such memories below a user (change that rule)"
    answers = [{**answer(f"u{n}", 1.0, 1.0), **({"not_servable": why} if n < 8 else {})} for n in range(400)]
    found = measured(collect_metrics(answers))
    options = VerifyOptions(accepted_gates=frozenset(accepted)).to_json()
    gate = next(gate for gate in gates_of(found, options) if gate.name == "asked")
    assert 8 == gate.value
    assert f"not asked: {why}" == gate.hint
    assert verdict == verdict_of(gates_of(found, options))


@pytest.mark.parametrize(
    ("found", "name", "missing"),
    [
        (measured_without("recall"), "recall", "no query was asked"),
        (measured_without("dump"), "source", "without a dump only the replayed memories are known"),
    ],
)
def test_what_was_not_measured_is_named_and_not_a_go_until_accepted(
    found: dict[str, Any], name: str, missing: str
) -> None:
    gate = next(gate for gate in gates_of(found, NOTHING_ACCEPTED) if gate.name == name)
    accepted = VerifyOptions(accepted_gates=frozenset({name})).to_json()
    assert f"not measured: {missing}" == gate.hint
    assert "INCONCLUSIVE" == verdict_of(gates_of(found, NOTHING_ACCEPTED))
    assert "GO" == verdict_of(gates_of(found, accepted))


def strange(rows: int, ours: int) -> dict[str, Any]:
    return {
        **measured(),
        "unaccounted": {
            "rows": rows,
            "ours": ours,
            "scopes": ["user/anna"] if rows else [],
            "scopes_count": 5 if rows else 0,
            "examples": ["memory_chunk chunk_1"] if rows else [],
            "searches": 4120,
            "untold": 0,
            "more": False,
        },
    }


@pytest.mark.parametrize(("rows", "ours", "verdict"), [(0, 0, "GO"), (1, 1, "NO_GO"), (3, 0, "INCONCLUSIVE")])
def test_what_nothing_accounts_for_is_no_go_and_undecided_where_others_may_write(
    rows: int, ours: int, verdict: str
) -> None:
    found = strange(rows, ours)
    assert verdict == verdict_of(gates_of(found, OPTIONS))
    accepted = VerifyOptions(accepted_gates=frozenset({"recall", "unaccounted"})).to_json()
    assert "GO" == verdict_of(gates_of(found, accepted))


def test_the_gate_names_scopes_and_an_example_or_says_what_finding_none_shows() -> None:
    gates = [gates_of(strange(rows, rows), OPTIONS) for rows in (0, 1)]
    none, some = (next(gate for gate in each if gate.name == "unaccounted").hint for each in gates)
    assert "no such row in 4,120 searches, so fewer than 0.07 % show one (95 % confidence)" == none
    assert "in user/anna and 4 more, such as memory_chunk chunk_1" in some


def test_a_failed_gate_is_never_accepted_except_residue() -> None:
    everything = VerifyOptions(accepted_gates=frozenset({*ACCEPTABLE, "missing", "isolation"})).to_json()
    assert "NO_GO" == verdict_of(gates_of(measured(missing=1), everything))
    assert "NO_GO" == verdict_of(gates_of(measured(superseded_wrongly=1), everything))
    assert "GO" == verdict_of(gates_of(measured(residue=1), everything))


@pytest.mark.parametrize(
    ("questions", "shown"),
    [(4120, "4,120 questions, so fewer than 0.07 %"), (20, "20 questions, so fewer than 14 %"), (1, "1 question, so")],
)
def test_without_a_leak_the_gate_says_what_that_shows(questions: int, shown: str) -> None:
    found = measured()
    found["isolation"]["questions"] = questions
    gate = next(gate for gate in gates_of(found, OPTIONS) if gate.name == "isolation")
    assert gate.passed is True
    assert shown in gate.hint


def test_a_verification_of_one_user_does_not_say_that_nothing_can_leak() -> None:
    found = measured()
    found["isolation"]["pairs"] = 0
    hints = {
        part: next(gate.hint for gate in gates_of(found, options) if gate.name == "isolation")
        for part, options in (("all", OPTIONS), ("alice", {**OPTIONS, "users": ["alice"]}))
    }
    assert hints["alice"].startswith("not tested")
    assert "nothing can leak" in hints["all"]


def test_one_leak_is_no_go() -> None:
    found = measured()
    found["isolation"]["leaks"] = 1
    assert "NO_GO" == verdict_of(gates_of(found, OPTIONS))


def test_a_gate_that_does_not_decide_has_no_influence() -> None:
    gates = [
        VerdictGate("a", 0, 0, True),
        VerdictGate("b", 1, 0, False, decides=False),
        VerdictGate("c", None, 0, None, decides=False),
    ]
    assert "GO" == verdict_of(gates)
    assert {"GO": 0, "NO_GO": 4, "INCONCLUSIVE": 5} == EXIT_CODES


def test_min_overlap_counts_if_it_is_set() -> None:
    metrics = collect_metrics(answer(f"u{number}", 1.0, 1.0) for number in range(400))
    found = measured(metrics)
    found["recall"]["metrics"]["overlap"] = 0.4
    gates = gates_of(found, {**OPTIONS, "min_overlap": 0.5})
    assert ["overlap"] == [gate.name for gate in gates if gate.passed is False]


def recompute(report: dict[str, Any]) -> str:
    """The verdict computed anew from the JSON report, without any code of ours."""
    found, options = report["measured"]["integrity"], report["options"]
    wrong = ("missing", "altered", "doubled", "foreign", "misplaced", "order", "superseded_wrongly")
    no_go = any(found[name] for name in wrong) or report["measured"]["isolation"]["leaks"] > 0
    accepted = options["accepted_gates"]
    no_go = no_go or (found["residue"] > 0 and "residue" not in accepted)
    strange = report["measured"].get("unaccounted") or {"rows": 0, "ours": 0}
    no_go = no_go or (strange["ours"] > 0 and "unaccounted" not in accepted)
    read = report["measured"]["dump"]
    undecided = found["pending"] > 0 or found["expected"] == 0
    undecided = undecided or (strange["rows"] > 0 and "unaccounted" not in accepted)
    undecided = undecided or (read is not None and not read["raw"] and not read["complete"])
    undecided = undecided or ("source" not in accepted and (read is None or read["raw"]))
    undecided = undecided or ("supersession" not in accepted and not found["supersession_told"])
    undecided = undecided or found["untestable"] > max(1, found["expected"] // 20)
    recall = report["measured"]["recall"]
    if recall is not None and recall["mem0"] is not None:
        pairs = [
            row["measures"]["spectron"]["success"] - row["measures"]["mem0"]["success"]
            for row in report["answers"]
            if row.get("excused") is None and {"mem0", "spectron"} <= set(row.get("measures", {}))
        ]
        whys = [one["why"] for row in report["answers"] for one in row.get("differences", [])]
        no_go = no_go or any(why in ("lost", "unexplained", "superseded_wrongly") for why in whys)
        undecided = undecided or "pending" in whys
        not_asked = [row for row in report["answers"] if "not_servable" in row]
        undecided = undecided or (bool(not_asked) and "asked" not in accepted)
        found_by_mem0 = [
            row["measures"]["mem0"]["success"]
            for row in report["answers"]
            if row.get("excused") is None and {"mem0", "spectron"} <= set(row.get("measures", {}))
        ]
        if pairs and sum(found_by_mem0) < 0.1 * len(pairs):
            undecided = True
        elif pairs and recall["everything"]:
            no_go = no_go or sum(pairs) / len(pairs) < -options["margin"]
        elif pairs:
            interval = recall["metrics"]["difference"]
            assert abs(sum(pairs) / len(pairs) - interval["mean"]) < 1e-9 or interval["units"] == "users"
            no_go = no_go or interval["high"] < -options["margin"]
            undecided = undecided or interval["low"] <= -options["margin"]
    return "NO_GO" if no_go else "INCONCLUSIVE" if undecided else "GO"


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_verdict_recomputed_from_the_json_report_is_the_one_printed(tmp_path: Path, *, spoilt: bool) -> None:
    texts = ["Keeps bees on the roof", "Collects Bolivian stamps", "Sings alto in a choir", "Bakes rye bread"]
    rows = [memory(number, name, text) for name in ("anna", "bo") for number, text in enumerate(texts)]
    with server_here(tmp_path / "spectron", context="again") as server:
        dump = write_raw(tmp_path / "all.json", rows)
        replay(server, tmp_path / "state", [dump])
        if spoilt:
            with tampering(server) as db:
                db.execute("UPDATE turn SET content = 'Keeps wasps' WHERE content LIKE '%bees%'")
        for sample in (3, 200):
            path = tmp_path / f"{sample}.json"
            options = VerifyOptions(sample=sample, reports=(path,))
            summary = verify(server, tmp_path / "state", [dump], options, mem0=WordSearch(rows))
            report = json.loads(path.read_text())
            assert summary.verdict == report["verdict"] == recompute(report) == verdict_of(report["gates"])
            assert [gate.to_json() for gate in gates_of(report["measured"], report["options"])] == report["gates"]


def chance_of_go(users: int, queries: int, loss: float, runs: int, seed: int) -> float:
    """How often the recall gate passes if Spectron truly finds a share of `loss` less than Mem0."""
    rng = random.Random(seed)
    opened = 0
    for _ in range(runs):
        metrics = Metrics()
        for number in range(users):
            for _ in range(queries):
                agree = rng.random() < 0.95
                mem0, spectron = (1.0, 1.0) if agree else (float(rng.random() < 0.5), float(rng.random() < 0.5))
                if mem0 == spectron == 1.0 and rng.random() < loss / (0.95 + 0.05 / 4):
                    spectron = 0.0
                metrics.add(answer(f"u{number}", mem0, spectron))
        gate = next(gate for gate in gates_of(measured(metrics), OPTIONS) if gate.name == "recall")
        opened += gate.passed is True
    return opened / runs


@pytest.mark.parametrize(("users", "queries"), [(5, 40), (50, 4), (200, 1), (200, 5)])
def test_a_loss_at_the_margin_passes_in_at_most_one_of_twenty_runs(users: int, queries: int) -> None:
    assert chance_of_go(users, queries, 0.02, runs=120, seed=users + queries) <= 0.05 + 0.035  # and chance's own share


def test_equal_systems_pass_more_often_with_more_queries(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [(50, 2), (200, 2), (500, 4)]
    chances = [chance_of_go(users, queries, 0.0, runs=25, seed=3) for users, queries in sizes]
    with capsys.disabled():
        shown = ", ".join(
            f"{users} users x {queries}: {chance:.0%}" for (users, queries), chance in zip(sizes, chances, strict=True)
        )
        print(f"\nchance of GO for equal systems: {shown}")
    assert chances == sorted(chances)
    assert chances[-1] >= 0.9


def test_statistics_of_ten_thousand_queries_take_less_than_a_second() -> None:
    rng = random.Random(1)
    answers = [
        answer(f"u{number % 1000}", float(rng.random() < 0.9), float(rng.random() < 0.9)) for number in range(10_000)
    ]
    began = time.perf_counter()
    metrics = collect_metrics(answers)
    gates_of(measured(metrics), OPTIONS)
    metrics.by_owner()
    assert time.perf_counter() - began < 1.0


def test_only_a_sample_of_all_memories_counts_as_everything(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user, f"Told about topic{number} on day{number}") for number in range(6)]
    dump = write_raw(tmp_path / "all.json", rows)
    replay(spectron, tmp_path / "state", [dump])
    part = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=5), mem0=WordSearch(rows))
    whole = verify(spectron, tmp_path / "state", [dump], VerifyOptions(sample=6), mem0=WordSearch(rows))
    assert [False, True] == [each.report["measured"]["recall"]["everything"] for each in (part, whole)]
