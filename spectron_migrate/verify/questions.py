"""Makes a question that a memory answers (pure): some of its words, in another order, within other words."""

from __future__ import annotations

from random import Random

from spectron_migrate.keywords import WordFrequencies, words_of

LENGTHS = ((1, 2), (3, 4), (5, 8))
"""Words of the memory in a short, a usual and a long question. Each kind is asked equally often."""
_RAREST = 3
"""One word of every question is among this many of the rarest ones, and is as rare as the rarest of all.

With only words that other memories have too, no search could tell them apart, and the better guess would win.
"""
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

    It leaves out at least one word if there are three or more, and questions about the same memory may differ. A known
    item that is asked for in all its own words is found by any search, so it compares nothing.
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
    """Some of the words: one of those that distinguish the memory from others, and any others."""
    fewest, most = rng.choice(LENGTHS)
    left_out = 1 if len(rarest) > 2 else 0
    length = min(rng.randint(fewest, most), len(rarest) - left_out)
    known = rng.choice(telling)
    others = [word for word in rarest if word != known]
    return {known, *rng.sample(others, length - 1)}


def _part_of(word: str) -> str:
    """The second half of a word in a script without spaces, in which a whole run of letters is one word."""
    if word.isascii() or len(word) < 8:
        return word
    return word[len(word) // 2 :]
