"""Likely contradictions: what the measure of the words finds, what it leaves, and that it stays bounded."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron_migrate.migration.likeness import NEWEST, Likeness, words
from spectron_migrate.rehearsal.store import load_events


def compared(*texts: str) -> Likeness:
    likeness = Likeness()
    for number, text in enumerate(texts):
        likeness.add("[]", f"m{number}", text)
    likeness.finish()
    return likeness


CONTRADICT = [
    ("Prefers vegetarian food", "Prefers vegan food"),
    ("User's favourite colour is green", "The user's favourite colour is blue"),
    ("Works at Acme", "Works at Initech"),
    ("Weekly food budget is 80 pounds", "Weekly food budget is 95 pounds now that prices went up"),
    ("猫の名前はムギ。八歳", "猫の名前はムギ。九歳"),
]
APART = [
    ("User likes green tea", "User likes jazz"),
    ("Lives in Oslo", "Plays the cello on Mondays"),
    ("User is allergic to nuts", "User has a dog named Rex"),
]


@pytest.mark.parametrize(("older", "newer"), CONTRADICT)
def test_the_same_thing_with_another_value_is_likely_to_contradict(older: str, newer: str) -> None:
    found = compared(older, newer)
    assert 1 == found.contradicting
    assert 0 == found.repeated
    assert "m0" == found.pairs[0].older
    assert "m1" == found.pairs[0].newer


@pytest.mark.parametrize(("older", "newer"), APART)
def test_two_things_are_not(older: str, newer: str) -> None:
    assert 0 == compared(older, newer).contradicting


def test_the_same_words_are_a_repetition_and_no_contradiction() -> None:
    found = compared("Likes rooibos tea", "the user likes Rooibos tea.")
    assert 0 == found.contradicting
    assert 1 == found.repeated


def test_only_memories_of_one_scope_are_compared() -> None:
    likeness = Likeness()
    likeness.add('[["user/a"]]', "1", "Works at Acme")
    likeness.add('[["user/b"]]', "2", "Works at Initech")
    likeness.finish()
    assert 0 == likeness.contradicting
    assert 0 == likeness.compared


def test_a_large_scope_is_compared_among_its_newest_alone() -> None:
    found = compared("Works at Acme", *(f"{number} " + "x" * (number + 1) for number in range(NEWEST)), "Works at B")
    assert NEWEST == found.compared
    assert all(pair.newer != f"m{NEWEST + 1}" for pair in found.pairs)


def test_when_all_pairs_that_may_be_compared_are_spent_the_rest_is_left_and_the_count_says_so() -> None:
    likeness = Likeness(_budget=3)
    for scope in ("a", "b"):
        for number in range(3):
            likeness.add(scope, f"{scope}{number}", f"Works at place {number}")
    likeness.finish()
    assert 3 == likeness.compared


def test_on_the_rehearsals_memories_most_of_what_it_finds_is_a_correction() -> None:
    """The figures that the measure is stated with."""
    scopes = defaultdict(list)
    for event in load_events():
        if event.kind == "add":
            scopes[event.user, event.agent].append(event)
    likeness = Likeness()
    for owner, events in scopes.items():
        for event in events:
            likeness.add(str(owner), event.key, event.text)
    likeness.finish()
    found = {(pair.older_text.split()[0], pair.newer_text.split()[0]) for pair in likeness.pairs}
    assert 7 == likeness.contradicting, likeness.pairs
    assert 1 == likeness.repeated, likeness.pairs
    assert ("Weekly", "Weekly") in found
    assert ("Buys", "Buys") in found


@settings(deadline=None)
@given(st.text())
def test_any_text_has_words_in_one_order(text: str) -> None:
    assert words(text) == " ".join(sorted(words(text).split(" ")))
