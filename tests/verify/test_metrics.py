"""Which answers count in the comparison."""

from __future__ import annotations

from typing import Any

from spectron_migrate.verify.metrics import collect_metrics


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


def test_excused_queries_and_unanswered_ones_are_not_compared() -> None:
    failed = answer("a", 1.0, 0.0)
    failed["mem0"] = {**failed["mem0"], "error": "no answer"}
    del failed["measures"]["mem0"]
    metrics = collect_metrics(
        [answer("a", 1.0, 1.0), {**answer("a", 1.0, 0.0), "excused": "superseded"}, failed]
    ).to_json(margin=0.02, everything=False)
    assert 3 == metrics["queries"]
    assert 1 == metrics["compared"]
    assert {"superseded": 1} == metrics["excused"]
    assert {"mem0": 1} == metrics["failed"]
