"""Words that tell one memory from the others of its scope (pure)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from random import Random

ASKED = 8
"""Words of one question: enough to put the memory among the first, few enough to be a question."""

_WORD = re.compile(r"[^\W_]+")
_COMMON_TEXT = """
a an and are as at be been but by can did do does for from had has have he her hers him his how i if in into is it
its me my no nor not of on or our she so that the their them they this to was we were what when where which who why
will with would you your user users likes like prefers wants
"""
_COMMON = frozenset(_COMMON_TEXT.split())
"""Words of English that a question is not about; in other languages rarity alone decides."""


def words_of(text: str) -> list[str]:
    """The different words of a text, as they come; scripts without spaces give whole runs."""
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


class WordFrequencies:
    """How many texts of a scope have each word."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count the texts once."""
        self._counts: Counter[str] = Counter()
        for text in texts:
            self._counts.update(words_of(text))

    def __contains__(self, word: str) -> bool:
        """Whether any text has the word."""
        return word in self._counts

    def rarest(self, text: str, n: int = ASKED, *, without: Collection[str] = ()) -> list[str]:
        """The `n` rarest words of a text, rarest first; among equally rare ones the longest."""
        known = [word for word in words_of(text) if word not in without]
        return sorted(known, key=lambda word: (self._counts[word], -len(word), word))[:n]

    def telling(self, text: str, n: int) -> list[str]:
        """The rarest words that a question could be about; all words where there are only common ones."""
        kept = [word for word in self.rarest(text, len(text)) if word not in _COMMON and len(word) > 1]
        return (kept or self.rarest(text, n))[:n]


def question_about(text: str, rarity: WordFrequencies, rng: Random) -> str | None:
    """A question to which the text is the answer, and which is not the text again; None where it has no word.

    Made of a few of its rarest words in another order, some of them as a sentence, so that neither system
    is asked for a text that it holds word for word.
    """
    words = rarity.telling(text, 4)
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
    """Of a run in a script without spaces its second half: the whole run would be the text again."""
    if word.isascii() or len(word) < 8:
        return word
    return word[len(word) // 2 :]
