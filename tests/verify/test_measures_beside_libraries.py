"""Our measures and intervals equal those of ir-measures, trec_eval, scipy and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.quantiles import t_quantile
from spectron_migrate.verify.intervals import paired_interval
from spectron_migrate.verify.measures import ndcg_at_k, percentile, reciprocal_rank, success_at_k

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it has no state

ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")

ITEMS = [f"m{number:02d}" for number in range(12)]
runs = st.dictionaries(
    st.sampled_from([f"q{number}" for number in range(6)]),
    st.tuples(
        st.lists(st.sampled_from(ITEMS), unique=True, min_size=1, max_size=10),
        st.sets(st.sampled_from(ITEMS), min_size=1, max_size=4),
    ),
    min_size=1,
)


def as_trec(asked: dict[str, tuple[list[str], set[str]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judgements and runs in the format of those libraries; a rank becomes a descending score."""
    qrels = {query: dict.fromkeys(sorted(expected), 1) for query, (_, expected) in asked.items()}
    run = {
        query: {item: float(100 - rank) for rank, item in enumerate(ranking)} for query, (ranking, _) in asked.items()
    }
    return qrels, run


@settings(deadline=None)
@given(asked=runs, k=st.sampled_from([1, 3, 5, 10]))
def test_success_and_reciprocal_rank_and_gain_are_those_of_ir_measures(
    asked: dict[str, tuple[list[str], set[str]]], k: int
) -> None:
    qrels, run = as_trec(asked)
    measures = [ir_measures.Success @ k, ir_measures.RR @ k, ir_measures.nDCG @ k]
    theirs = {(row.query_id, str(row.measure)): row.value for row in ir_measures.iter_calc(measures, qrels, run)}
    for query, (ranking, expected) in asked.items():
        ours = (
            success_at_k(ranking, expected, k),
            reciprocal_rank(ranking[:k], expected),
            ndcg_at_k(ranking, expected, k),
        )
        assert tuple(theirs[query, str(measure)] for measure in measures) == pytest.approx(ours)


@settings(deadline=None)
@given(asked=runs)
def test_the_gain_is_that_of_trec_eval(asked: dict[str, tuple[list[str], set[str]]]) -> None:
    qrels, run = as_trec(asked)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.5", "recip_rank", "success.5"}).evaluate(run)
    for query, (ranking, expected) in asked.items():
        assert theirs[query]["ndcg_cut_5"] == pytest.approx(ndcg_at_k(ranking, expected, 5))
        assert theirs[query]["recip_rank"] == pytest.approx(reciprocal_rank(ranking, expected))
        assert theirs[query]["success_5"] == success_at_k(ranking, expected, 5)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 29, 48, 199, 200, 201, 5000])
@pytest.mark.parametrize("probability", [0.005, 0.025, 0.5, 0.9, 0.975, 0.9995])
def test_quantiles_of_student_are_those_of_scipy(degrees: int, probability: float) -> None:
    assert stats.t.ppf(probability, degrees) == pytest.approx(t_quantile(probability, degrees), abs=1e-8, rel=1e-7)


@settings(deadline=None)
@given(means=st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0]), min_size=30, max_size=80))
def test_the_interval_over_users_is_scipys_with_two_made_up_users(means: list[float]) -> None:
    ours = paired_interval({f"u{number}": [value] for number, value in enumerate(means)})
    mean = float(np.mean(means))
    theirs = stats.ttest_1samp([*means, mean - 1, mean + 1], 0.0).confidence_interval(0.95)
    expected = (max(-1.0, float(theirs.low)), min(1.0, float(theirs.high)))
    assert expected == pytest.approx((ours.low, ours.high), abs=1e-9)


@given(values=st.lists(st.floats(0, 1e4), min_size=1, max_size=50), share=st.floats(0, 1))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert float(np.quantile(values, share)) == pytest.approx(percentile(values, share), abs=1e-6)
