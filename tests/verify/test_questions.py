"""Generated questions are paraphrases: they leave out words of the memory, reorder the others, and differ in length."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from spectron_migrate.keywords import WordFrequencies, topics_of, words_of
from spectron_migrate.verify.questions import question_about

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=8)
WORDS = st.lists(st.sampled_from([f"word{number}" for number in range(30)]), min_size=3, max_size=12, unique=True)
FRAMES = set(words_of("anything about what is there do you know tell me was that"))


@given(TEXTS, st.integers(0, 99))
def test_a_question_uses_words_of_the_text_but_never_repeats_it(texts: list[str], seed: int) -> None:
    frequencies = WordFrequencies(texts)
    for text in texts:
        question = question_about(text, frequencies, random.Random(seed))
        if question is None:
            assert [] == words_of(text)
            continue
        assert question.casefold().split() != text.casefold().split()
        asked = [word for word in words_of(question) if word not in FRAMES]
        assert all(any(word in known for known in words_of(text)) for word in asked)


@given(WORDS, st.integers(0, 99))
def test_a_question_leaves_out_a_word_and_reorders_the_others(words: list[str], seed: int) -> None:
    question = question_about(" ".join(words), WordFrequencies([" ".join(words)]), random.Random(seed))
    assert question is not None
    asked = [word for word in words_of(question) if word in words]
    assert 0 < len(asked) < len(words)
    assert len(asked) == 1 or asked != [word for word in words if word in asked]


@given(WORDS, st.integers(0, 99))
def test_one_word_of_a_question_is_rare(words: list[str], seed: int) -> None:
    frequencies = WordFrequencies([" ".join(words), *(word for word in words[3:] for _ in range(3))])
    question = question_about(" ".join(words), frequencies, random.Random(seed))
    assert question is not None
    assert set(words_of(question)) & set(frequencies.topics(" ".join(words), 3))


@given(st.integers(0, 99))
def test_a_question_has_a_word_that_tells_the_memory_from_the_others_of_its_scope(seed: int) -> None:
    texts = [f"Told about topic{number} on day{number}" for number in range(6)]
    question = question_about(texts[2], WordFrequencies(texts), random.Random(seed))
    assert question is not None
    assert {"topic2", "day2"} & set(words_of(question))


def test_questions_about_a_memory_differ_in_length_and_sentence() -> None:
    text = "Moved from Porto to Bergen because of a job at the harbour museum and a love of cold rain"
    made = [question_about(text, WordFrequencies([text]), random.Random(seed)) for seed in range(60)]
    lengths = {len(set(topics_of(question or "")) & set(words_of(text))) for question in made}
    assert lengths >= {1, 2, 3, 4, 5, 6}
    assert len({question for question in made if question}) > 50


def test_the_same_seed_asks_the_same_question() -> None:
    text = "Keeps bees on the roof of the old library"
    first, again = (question_about(text, WordFrequencies([text]), random.Random(3)) for _ in range(2))
    assert first == again
