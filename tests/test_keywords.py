"""Rare words identify a memory, and generated questions do not repeat its text."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.keywords import WordFrequencies, question_about, words_of


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=8), st.integers(0, 99))
def test_a_generated_question_uses_words_of_the_text_but_never_repeats_it(texts: list[str], seed: int) -> None:
    rarity = WordFrequencies(texts)
    for text in texts:
        question = question_about(text, rarity, random.Random(seed))
        if question is None:
            assert [] == words_of(text)
            continue
        assert question.casefold().split() != text.casefold().split()
        asked = [word for word in words_of(question) if word not in ("what", "about", "and", "anything")]
        assert all(any(word in known for known in words_of(text)) for word in asked)


def test_the_rarest_words_come_first() -> None:
    rarity = WordFrequencies(["anna likes green tea", "anna likes black coffee", "anna likes cake"])
    assert ["green", "tea", "likes"] == rarity.rarest("Anna likes green tea", 3)
