"""Words that distinguish a memory from the others of its scope (pure)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

KEYWORDS = 8
"""How many words one search has: enough to rank the memory first, and few enough for a search."""

_WORD = re.compile(r"[^\W_]+")
_COMMON_TEXT = """
a about an and anything are as at be been but by can did do does for from had has have he her hers him his how i
if in into is it its know me my no nor not of on or our she so tell that the their them there they this to was
we were what when where which who why will with would you your user users likes like prefers wants
"""
_COMMON = frozenset(_COMMON_TEXT.split())
"""English words that no question is about. In other languages only frequency decides."""


def words_of(text: str) -> list[str]:
    """The distinct words of a text, in order. In scripts without spaces a whole run of letters is one word."""
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


def topics_of(text: str) -> list[str]:
    """The distinct words of a text that a question could be about; common words only if there are no others."""
    words = words_of(text)
    return [word for word in words if _is_topic(word)] or words


def _is_topic(word: str) -> bool:
    return word not in _COMMON and len(word) > 1


class WordFrequencies:
    """In how many texts of a scope each word occurs."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts: Counter[str] = Counter()
        for text in texts:
            self._counts.update(words_of(text))

    def __contains__(self, word: str) -> bool:
        """Whether the word occurs in any text."""
        return word in self._counts

    def __getitem__(self, word: str) -> int:
        """In how many texts the word occurs."""
        return self._counts[word]

    def rarest(self, text: str, n: int = KEYWORDS, *, without: Collection[str] = ()) -> list[str]:
        """The `n` rarest words of a text, rarest first; among equally rare ones the longest."""
        known = [word for word in words_of(text) if word not in without]
        return sorted(known, key=lambda word: (self._counts[word], -len(word), word))[:n]

    def topics(self, text: str, n: int) -> list[str]:
        """The rarest words that a question could be about; common words only if there are no others."""
        kept = [word for word in self.rarest(text, len(text)) if _is_topic(word)]
        return (kept or self.rarest(text, n))[:n]
