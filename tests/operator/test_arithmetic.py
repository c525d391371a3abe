"""The figures of docs/arithmetic.md follow from its formulas."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.operator.glossary_links import without_links

PAGE = without_links((Path(__file__).parents[2] / "docs" / "arithmetic.md").read_text(encoding="utf-8"))
TABLE = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("| ").split(" | ")]]
}
MEMORIES = (3e6, 3e6, 100e6, 100e6)
LATENCY_S = (2.0, 0.15, 2.0, 0.15)
TOKENS = ((300, 2900), (100, 100), (300, 2900), (100, 100))
SECONDS = {"min": 60, "h": 3600, "days": 86400}


def seconds(cell: str) -> float:
    number, unit = cell.split()
    return float(number) * SECONDS[unit]


def numbers(cell: str) -> list[float]:
    """`$25,000-$244,000` or `0.9-8.7 G` as numbers."""
    scale = {"G": 1e9, "M": 1e6}
    unit = re.search(r"([GM])\b", cell.replace("M-", "M -"))
    found = [float(number.replace(",", "")) for number in re.findall(r"[\d.,]*\d", cell)]
    return [number * scale[unit[1]] if unit else number for number in found]


@pytest.mark.parametrize(
    ("row", "in_flight"),
    [("at 64 in flight", 64), ("at 512 in flight (one replay with `--max-in-flight 512`, or 8)", 512)],
)
def test_times_are_memories_times_latency_divided_by_requests_in_flight(row: str, in_flight: int) -> None:
    expected = [n * latency / in_flight for n, latency in zip(MEMORIES, LATENCY_S, strict=True)]
    assert expected == pytest.approx([seconds(cell) for cell in TABLE[row]], rel=0.05)


def test_the_largest_user_takes_as_long_as_its_memories_one_by_one() -> None:
    row = TABLE["largest user with 50,000 memories, alone"]
    assert [50_000 * 2.0] * 2 == pytest.approx([seconds(row[0]), seconds(row[2])], rel=0.05)


def test_tokens_and_money_follow_from_the_published_figures() -> None:
    for column, (low, high) in enumerate(TOKENS):
        tokens = sorted({MEMORIES[column] * low, MEMORIES[column] * high})
        assert tokens == pytest.approx(numbers(TABLE["tokens"][column]), rel=0.05)
        money = [n / 1e6 * 28 for n in tokens]
        assert money == pytest.approx(numbers(TABLE["money at $28 a million"][column]), rel=0.06)


def test_a_narrow_rate_limit_is_shown_in_days() -> None:
    row = TABLE["requests at 10 a second, if that is all you get"]
    assert [n / 10 for n in MEMORIES] == pytest.approx([seconds(cell) for cell in row], rel=0.05)
