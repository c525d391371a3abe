"""Facts that the built-in rules extract."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.local.extract import Extraction
from spectron_migrate.local.rules import RuleExtractor

pytestmark = pytest.mark.slow


def read(text: str, role: str = "user") -> Extraction:
    return asyncio.run(RuleExtractor().extract([(role, text)], lambda: ()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Prefers vegetarian food", [("user", "food_preference", "vegetarian food")]),
        ("now eats fish", [("user", "food_preference", "fish")]),
        ("Is vegan", [("user", "food_preference", "vegan")]),
        ("I'm allergic to nuts", [("user", "allergic_to_nuts", "nuts")]),
        ("Is no longer allergic to nuts", [("user", "allergic_to_nuts", "no longer: nuts")]),
        ("User lives in Berlin.", [("user", "lives_in", "Berlin")]),
        ("Moved to Lisbon last month", [("user", "lives_in", "Lisbon")]),
        ("Works at Acme as a designer", [("user", "works_at", "Acme")]),
        ("Switched jobs to Globex in March 2025", [("user", "works_at", "Globex")]),
        ("The user is a software engineer", [("user", "job_title", "software engineer")]),
        ("Alice's favourite colour is green", [("Alice", "favourite_colour", "green")]),
        ("Favorite color is blue", [("user", "favourite_colour", "blue")]),
        ("User's name is Bob", [("user", "name", "Bob")]),
        ("Her sister's name is Mia", [("user", "sister_name", "Mia")]),
        ("Has a dog named Rex", [("user", "dog_name", "Rex")]),
        ("Prefers dark mode", [("user", "mode_preference", "dark mode")]),
        ("Prefers window seats over aisle seats", [("user", "seat_preference", "window seats over aisle seats")]),
        ("田中 lives in Tokyo", [("田中", "lives_in", "Tokyo")]),
        ("Yesterday Alice moved to Porto", [("Alice", "lives_in", "Porto")]),
        (
            "Lives in Berlin and works at Siemens",
            [("user", "lives_in", "Berlin"), ("user", "works_at", "Siemens")],
        ),
        (
            "Alice lives in Berlin but works in Potsdam. She loves fish and chips.",
            [("Alice", "lives_in", "Berlin but works in Potsdam"), ("Alice", "likes_fish_and_chips", "fish and chips")],
        ),
        ("The user's sister lives in Rome", []),
        ("Used to like coffee", []),
        ("The meeting is on Tuesday", []),
        ("", []),
    ],
)
def test_plain_statements_become_facts(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert expected == [(fact.entity[1], fact.key, fact.value) for fact in read(text).facts]


def test_first_person_of_the_assistant_is_about_the_assistant() -> None:
    (fact,) = read("I live in the cloud", role="assistant").facts

    assert ("agent", "assistant") == fact.entity


def test_a_hedged_statement_is_below_the_confidence_floor() -> None:
    (fact,) = read("I might prefer tea").facts

    assert fact.confidence < 0.7


@given(st.text(max_size=300))
def test_any_text_is_extracted_without_errors_or_empty_facts(text: str) -> None:
    for fact in read(text).facts:
        assert fact.key
        assert fact.value.strip()


@given(st.integers(1, 400))
def test_no_pattern_takes_exponential_time(count: int) -> None:
    assert all(fact.value.strip() for fact in read("a, " * count + "lives " * count + "now " * count).facts)
