"""Words that distinguish a memory from the others of its scope (pure)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from random import Random

KEYWORDS = 8
"""Words of one search: enough to rank the memory first, few enough for a search."""

_WORD = re.compile(r"[^\W_]+")
_COMMON_TEXT = """
a an and are as at be been but by can did do does for from had has have he her hers him his how i if in into is it
its me my no nor not of on or our she so that the their them they this to was we were what when where which who why
will with would you your user users likes like prefers wants
"""
_COMMON = frozenset(_COMMON_TEXT.split())
"""English words that no question is about; in other languages only frequency decides."""


def words_of(text: str) -> list[str]:
    """The distinct words of a text in order; in scripts without spaces a whole run of letters is one word."""
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


class WordFrequencies:
    """In how many texts of a scope each word occurs."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts: Counter[str] = Counter()
        for text in texts:
            self._counts.update(words_of(text))

    def __contains__(self, word: str) -> bool:
        """Whether the word occurs in any text."""
        return word in self._counts

    def rarest(self, text: str, n: int = KEYWORDS, *, without: Collection[str] = ()) -> list[str]:
        """The `n` rarest words of a text, rarest first; among equally rare ones the longest."""
        known = [word for word in words_of(text) if word not in without]
        return sorted(known, key=lambda word: (self._counts[word], -len(word), word))[:n]

    def topics(self, text: str, n: int) -> list[str]:
        """The rarest words that a question could be about; common words only if there are no others."""
        kept = [word for word in self.rarest(text, len(text)) if word not in _COMMON and len(word) > 1]
        return (kept or self.rarest(text, n))[:n]


def question_about(text: str, frequencies: WordFrequencies, rng: Random) -> str | None:
    """A question that the text answers; None if the text has no word.

    It has up to four of the rarest words, in another order and half of the time as a sentence, so that neither
    system is asked for a text that it stores word for word.
    """
    words = frequencies.topics(text, 4)
    if not words:
        return None
    if len(words) == 1:
        return f"anything about {_part_of(words[0])}?"
    original = [word for word in words_of(text) if word in words]
    shuffled = list(words)
    while shuffled == original:
        rng.shuffle(shuffled)
    if rng.random() < 0.5:
        return " ".join(shuffled)
    return f"what about {' '.join(shuffled[:-1])} and {shuffled[-1]}?"


def _part_of(word: str) -> str:
    """The second half of a run in a script without spaces: the whole run would be the text itself."""
    if word.isascii() or len(word) < 8:
        return word
    return word[len(word) // 2 :]
