"""Finds memories of one scope that are likely to contradict each other, by a stated measure of their texts.

Two texts are compared in lower case, without a leading "the user" and with their words in alphabetical order, by
rapidfuzz's ratio: twice the letters that they share in order, over all letters of both, in percent. Two different texts
with `ALIKE` percent or more count as likely to contradict each other ("Prefers vegetarian food", "Prefers vegan food").
The measure sees words, not meaning: it misses "Lives in Oslo" and "Moved to Rome", and it reports "likes tea" and
"likes tea with milk". The server alone decides what supersedes what.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from spectron_migrate.records import selector_of

ALIKE = 60
"""Percent. On the memories of `rehearse` this finds 6 corrections, and 1 pair that is no correction."""
NEWEST = 100
"""How many of the newest memories of a scope are compared with each other."""
MOST_PAIRS = 10_000_000
"""The most pairs that are compared in total, so that a plan of a million memories takes seconds."""
EXAMPLES = 100
_WORD = re.compile(r"\w+")
_NOBODY = {"the", "user", "users", "s"}


@dataclass(frozen=True, slots=True)
class LikelyPair:
    """An older memory and a newer one that may supersede it."""

    older: str
    newer: str
    older_text: str
    newer_text: str
    scope: str
    """The selector, as canonical JSON."""
    percent: int

    @property
    def scope_path(self) -> str:
        """The path, if there is just one; else the selector."""
        selector = selector_of(self.scope)
        return selector[0][0] if len(selector) == 1 and len(selector[0]) == 1 else self.scope


@dataclass
class Likeness:
    """Compares memories scope by scope, each scope's oldest first."""

    contradicting: int = 0
    """Memories that are likely to contradict an older one of their scope."""
    repeated: int = 0
    """Memories that have the same words as an older one of their scope."""
    compared: int = 0
    """Memories that were compared with others."""
    scopes: int = 0
    """Scopes with contradicting or repeated memories."""
    pairs: list[LikelyPair] = field(default_factory=list)
    """The first pairs found: a newer memory and the older one that is most similar to it."""
    _scope: str = ""
    _window: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=NEWEST))
    _budget: int = MOST_PAIRS

    def add(self, scope: str, mem0_id: str, text: str) -> None:
        """Add the next memory; those of one scope must come together, oldest first."""
        if scope != self._scope:
            self.finish()
            self._scope = scope
        self._window.append((mem0_id, text, words(text)))

    def finish(self) -> None:
        """Compare the memories of the last scope."""
        window = list(self._window)
        self._window.clear()
        pairs = len(window) * (len(window) - 1) // 2
        if not pairs or pairs > self._budget:
            return
        self._budget -= pairs
        self.compared += len(window)
        before = self.contradicting + self.repeated
        self._compare(window)
        self.scopes += self.contradicting + self.repeated > before

    def _compare(self, window: list[tuple[str, str, str]]) -> None:
        import numpy as np
        from rapidfuzz import fuzz, process

        texts = [sorted_words for _, _, sorted_words in window]
        alike = np.triu(process.cdist(texts, texts, scorer=fuzz.ratio, score_cutoff=ALIKE, dtype=np.uint8), k=1)
        for newer in np.flatnonzero(alike.any(axis=0)):
            older = int(alike[:, newer].argmax())
            if texts[older] == texts[newer]:
                self.repeated += 1
                continue
            self.contradicting += 1
            if len(self.pairs) < EXAMPLES:
                (old_id, old_text, _), (new_id, new_text, _) = window[older], window[int(newer)]
                percent = int(alike[older, newer])
                self.pairs.append(LikelyPair(old_id, new_id, old_text, new_text, self._scope, percent))


def words(text: str) -> str:
    """The words of a text as they are compared: in lower case and sorted."""
    found = _WORD.findall(text[:2000].casefold())
    start = next((position for position, word in enumerate(found) if word not in _NOBODY), 0)
    return " ".join(sorted(found[start:]))
