"""Confidence intervals, against numbers worked out by hand and published tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.quantiles import t_quantile
from spectron_migrate.verify.intervals import Interval, most_of_none, paired_interval, units_needed

differences = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=5),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "published"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 10, 2.228),
        (0.975, 29, 2.045),
        (0.975, 200, 1.972),
        (0.975, 201, 1.972),
        (0.975, 1000, 1.962),
        (0.95, 5, 2.015),
        (0.995, 120, 2.617),
        (0.025, 10, -2.228),
    ],
)
def test_quantiles_of_student_are_those_of_the_tables(probability: float, degrees: int, published: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(published, abs=6e-4)


def test_both_methods_for_a_quantile_agree_where_they_meet() -> None:
    assert t_quantile(0.975, 200) - t_quantile(0.975, 201) == pytest.approx(6e-5, abs=1e-6)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 5), (1.0, 5), (0.5, 0)])
def test_an_impossible_quantile_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, degrees)


def test_interval_within_few_users_worked_out_by_hand() -> None:
    # Two users, differences (0, 0, -1, 0) and (0, 0, 0, 0): mean -1/8, squares 2 + (3 * 1/16 + 9/16) = 11/4,
    # degrees 8 + 2 - 2 = 8, t = 2.306, half = 2.306 * sqrt(11/4 / 8 / 10)
    interval = paired_interval({"alice": [0.0, 0.0, -1.0, 0.0], "bob": [0.0] * 4})
    half = 2.3060041 * math.sqrt(11 / 4 / 8 / 10)
    assert interval == Interval(-0.125, interval.low, interval.high, 8, "queries")
    assert interval.low == pytest.approx(-0.125 - half)
    assert interval.high == pytest.approx(-0.125 + half)


def test_an_interval_over_many_users_gives_every_user_the_same_weight() -> None:
    # 30 users: one with five losses, 29 with a single draw: mean -1/30, not -5/34
    interval = paired_interval({"loser": [-1.0] * 5} | {str(n): [0.0] for n in range(29)})
    squares = 2 + (29 / 30) ** 2 + 29 * (1 / 30) ** 2
    half = t_quantile(0.975, 31) * math.sqrt(squares / 31 / 32)
    assert interval == Interval(interval.mean, interval.low, interval.high, 30, "users")
    assert interval.mean == pytest.approx(-1 / 30)
    assert interval.low == pytest.approx(-1 / 30 - half)


def test_equal_answers_of_few_users_prove_nothing() -> None:
    assert paired_interval({str(n): [0.0] for n in range(30)}).low < -0.02
    assert paired_interval({str(n): [0.0] for n in range(200)}).low > -0.02


def test_a_sample_of_everything_has_no_sampling_error() -> None:
    assert paired_interval({"alice": [0.0, -1.0]}, everything=True) == Interval(-0.5, -0.5, -0.5, 2, "all")


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="no difference"):
        paired_interval({"alice": []})


@given(differences)
def test_an_interval_contains_its_mean_and_stays_between_minus_one_and_one(by_user: dict[str, list[float]]) -> None:
    interval = paired_interval(by_user)
    assert -1.0 <= interval.low <= interval.mean <= interval.high <= 1.0


@given(differences)
def test_swapping_the_systems_mirrors_the_interval(by_user: dict[str, list[float]]) -> None:
    there = paired_interval(by_user)
    back = paired_interval({user: [-value for value in values] for user, values in by_user.items()})
    assert back.low == pytest.approx(-there.high)
    assert back.mean == pytest.approx(-there.mean)


def test_the_number_needed_grows_with_the_square_of_the_width() -> None:
    # Half-width 0.04 around 0, margin 0.02: four times as many
    assert 200 == units_needed(Interval(0.0, -0.04, 0.04, 50, "users"), 0.02)
    assert 50 == units_needed(Interval(0.0, -0.01, 0.01, 50, "users"), 0.02)
    assert units_needed(Interval(-0.02, -0.06, 0.02, 50, "users"), 0.02) is None


@pytest.mark.parametrize(("n", "most"), [(1, 0.95), (3, 0.6316), (59, 0.0495), (4120, 0.000727)])
def test_a_sample_without_a_case_bounds_the_share_of_cases(n: int, most: float) -> None:
    assert most_of_none(n) == pytest.approx(most, abs=1e-4)
    assert (1 - most_of_none(n)) ** n == pytest.approx(0.05)
