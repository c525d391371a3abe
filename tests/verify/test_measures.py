"""The measures of recall, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.verify.measures import ndcg_at_k, overlap_at_k, percentile, rbo_ext, reciprocal_rank, success_at_k

rankings = st.lists(st.sampled_from("abcdefghij"), unique=True)


def test_success_counts_an_expected_memory_only_inside_the_first_k() -> None:
    assert 1.0 == success_at_k("abcde", {"c"}, 3)
    assert 0.0 == success_at_k("abcde", {"c"}, 2)
    assert 0.0 == success_at_k("", {"c"}, 5)


def test_reciprocal_rank_is_that_of_the_first_expected_memory() -> None:
    assert reciprocal_rank("abcde", {"d", "c"}) == pytest.approx(1 / 3)
    assert 0.0 == reciprocal_rank("abcde", {"x"})


def test_overlap_is_the_share_of_the_longer_answer() -> None:
    assert overlap_at_k("abcde", "cdexy", 5) == pytest.approx(3 / 5)
    assert 1.0 == overlap_at_k("abcde", "cbaxy", 3)
    assert 1.0 == overlap_at_k("abc", "cba", 5)
    assert overlap_at_k("abcde", "abc", 5) == pytest.approx(3 / 5)
    assert 0.0 == overlap_at_k("", "abc", 5)
    assert 1.0 == overlap_at_k("", "", 5)


def test_rbo_of_two_even_lists_worked_out_by_hand() -> None:
    # Overlaps by depth: 0, 2, 3. With p = 0.5 and (1 - p) / p = 1:
    # 0/1 * 0.5 + 2/2 * 0.25 + 3/3 * 0.125 + 3/3 * 0.125
    assert rbo_ext("abc", "bac", p=0.5) == pytest.approx(0.5)


def test_rbo_of_uneven_lists_worked_out_by_hand() -> None:
    # s = 1, l = 3, overlaps 0, 1, 1. With p = 0.5:
    # 0.5 * 0/1 + 0.25 * 1/2 + 0.125 * 1/3, nothing assumed since the overlap at s is 0,
    # beyond: ((1 - 0) / 3 + 0) * 0.125
    assert rbo_ext("b", "abc", p=0.5) == pytest.approx(0.125 + 0.125 / 3 + 0.125 / 3)
    # s = 1, l = 2, overlaps 1, 1: 0.5 + 0.25 * 1/2, assumed 1 * 1/(1 * 2) * 0.25, beyond (0 + 1) * 0.25
    assert rbo_ext("a", "ab", p=0.5) == pytest.approx(0.5 + 0.125 + 0.125 + 0.25)


def test_rbo_refuses_a_ranking_that_names_an_item_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        rbo_ext("aba", "abc")


@given(rankings, rankings)
def test_rbo_and_overlap_are_symmetric_shares(left: list[str], right: list[str]) -> None:
    for measure in (rbo_ext(left, right), overlap_at_k(left, right, 5)):
        assert -1e-12 <= measure <= 1 + 1e-12
    assert rbo_ext(left, right) == pytest.approx(rbo_ext(right, left))
    assert overlap_at_k(left, right, 5) == overlap_at_k(right, left, 5)


@given(rankings)
def test_rbo_of_equal_rankings_is_one_and_of_disjoint_rankings_zero(ranking: list[str]) -> None:
    assert rbo_ext(ranking, ranking) == pytest.approx(1.0)
    if ranking:
        assert 0.0 == rbo_ext(ranking, [item.upper() for item in ranking])


def test_rbo_weighs_the_top_more_than_the_end() -> None:
    assert rbo_ext("abcdefgh", "abcdefhg") > rbo_ext("abcdefgh", "bacdefgh")


def test_ndcg_worked_out_by_hand() -> None:
    # 1/log2(2) + 1/log2(4) over 1/log2(2) + 1/log2(3)
    assert pytest.approx(1.5 / (1 + 0.6309297535714574)) == ndcg_at_k(["a", "x", "b"], {"a", "b"}, 5)
    assert 1.0 == ndcg_at_k(["a"], {"a"}, 5)
    assert 0.0 == ndcg_at_k(["x"], {"a"}, 5)
    assert 0.0 == ndcg_at_k([], set(), 5)


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    assert percentile([], 0.5) is None
    assert 5.0 == percentile([5.0], 0.95)
    assert 2.5 == percentile([4.0, 1.0, 3.0, 2.0], 0.5)
    assert 4.0 == percentile([1.0, 2.0, 3.0, 4.0], 1.0)
