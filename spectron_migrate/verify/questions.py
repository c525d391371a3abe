"""Makes a question that a memory answers (pure): some of its words, in another order, in a sentence of other words."""

from __future__ import annotations

from random import Random

from spectron_migrate.keywords import WordFrequencies, words_of

LENGTHS = ((1, 2), (3, 4), (5, 8))
"""Words of the memory in a short, a usual and a long question: each kind is asked equally often."""
_RAREST = 3
"""One word of every question is among so many of the rarest ones, and no less rare than the rarest of all: by words
that other memories have as well no search could tell them apart, and the better guess would win."""
_FRAMES = (
    "{}",
    "what about {}?",
    "is there anything about {}?",
    "what do you know about {}?",
    "tell me about {}",
    "{}: what was that?",
)


def question_about(text: str, frequencies: WordFrequencies, rng: Random) -> str | None:
    """A question that the text answers; None if the text has no word.

    It leaves out at least one word of three or more, and no two questions of a memory need be alike. Known items that
    are asked for in their own words are found by any search, which compares nothing.
    """
    rarest = frequencies.topics(text, len(text))
    if not rarest:
        return None
    if len(rarest) == 1:
        return f"anything about {_part_of(rarest[0])}?"
    drawn = _drawn(rarest, [word for word in rarest[:_RAREST] if frequencies[word] == frequencies[rarest[0]]], rng)
    original = [word for word in words_of(text) if word in drawn]
    chosen = list(original)
    while chosen == original and len(chosen) > 1:
        rng.shuffle(chosen)
    return rng.choice(_FRAMES).format(" ".join(chosen))


def _drawn(rarest: list[str], telling: list[str], rng: Random) -> set[str]:
    """Some of the words: one of those that tell the memory from others, and any others."""
    fewest, most = rng.choice(LENGTHS)
    left_out = 1 if len(rarest) > 2 else 0
    length = min(rng.randint(fewest, most), len(rarest) - left_out)
    known = rng.choice(telling)
    others = [word for word in rarest if word != known]
    return {known, *rng.sample(others, length - 1)}


def _part_of(word: str) -> str:
    """The second half of a run in a script without spaces: the whole run would be the text itself."""
    if word.isascii() or len(word) < 8:
        return word
    return word[len(word) // 2 :]
