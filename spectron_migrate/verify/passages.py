"""Checks that the passages that searches found make up the text of a memory, word for word (pure).

Spectron splits a long text into passages. How it splits is not published, so this does not depend on it. Each passage
must be a piece of the text, and the pieces must cover the text from the first letter to the last; only white space may
be lost between them. Receipts name only the first passage.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spectron_migrate.records import Hit
from spectron_migrate.spectron.api import MAX_K
from spectron_migrate.verify.stored_memory import StoredMemory

_NOT_PASSAGES = frozenset({"attribute", "entity", "action", "turn", "section"})
"""Kinds of hits that Spectron writes in its own words, or that are no piece of the text."""
_TRIES = 5000
"""The most steps in search of an order of passages that covers the text.

A text that does not repeat itself needs none.
"""
_SIMILAR_PERCENT = 60.0
"""A passage this much like (rapidfuzz ratio, 0-100) a piece that was not found counts as that piece, altered."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage, with its place in the text."""

    id: str
    text: str
    """In `exact_form`."""


def exact_form(text: str) -> str:
    """A text without differences of Unicode form and white space. Case counts, because it can carry meaning."""
    return " ".join(unicodedata.normalize("NFD", text).split())


class Passages:
    """The passages of one memory that answers have shown so far."""

    def __init__(self, fact: StoredMemory, is_of_another: Callable[[str], bool]) -> None:
        """`is_of_another`: whether the passage with this id belongs to another memory."""
        self._fact = fact
        self._is_of_another = is_of_another
        self.whole = exact_form(fact.text)
        self.seen: dict[str, str] = {}
        """Every passage of every answer, by id, in `exact_form`, including those of other memories."""
        self._ambiguous: set[str] = set()
        self._of_turn: set[str] = set()
        """The passages that name the turn of this memory."""

    def add(self, hits: Sequence[Hit]) -> None:
        """Add the passages of an answer, best first.

        If the answer had no room for more, passages with the text of its last one count even if they belong to another
        memory, because this memory's own may come after them.
        """
        last = exact_form(hits[-1].text) if len(hits) >= MAX_K else None
        for hit in hits:
            if hit.source in _NOT_PASSAGES:
                continue
            text = self.seen[hit.id] = exact_form(hit.text)
            if hit.turn_id is not None and hit.turn_id == self._fact.turn_id:
                self._of_turn.add(hit.id)
            if text == last:
                self._ambiguous.add(hit.id)

    @property
    def first_is_wrong(self) -> bool:
        """Whether the passage that the receipt names is not the beginning of the text."""
        first = self.seen.get(self._fact.chunk_id or "")
        return first is not None and not (first and self.whole.startswith(first))

    def pieces(self) -> tuple[list[Piece], int | None]:
        """The passages in the order of the text, and the first letter that none of them covers, if there is one."""
        own = {
            hit_id: text
            for hit_id, text in self.seen.items()
            if text and text in self.whole and (hit_id in self._ambiguous or not self._is_of_another(hit_id))
        }
        pieces: list[Piece] = []
        furthest: tuple[list[Piece], int] = ([], 0)
        open_choices = [self._choices(own, pieces, 0)]
        for _ in range(_TRIES):
            if not open_choices[-1]:
                open_choices.pop()
                if not pieces:
                    break
                pieces.pop()
                continue
            end, piece = open_choices[-1].pop()
            pieces.append(piece)
            position = end + self.whole.startswith(" ", end)
            if position >= len(self.whole):
                return pieces, None
            if position > furthest[1]:
                furthest = (list(pieces), position)
            open_choices.append(self._choices(own, pieces, position))
        return furthest

    def _choices(self, own: Mapping[str, str], taken: Sequence[Piece], position: int) -> list[tuple[int, Piece]]:
        """The passages that may come next, each with its end, the best last. Of passages with equal texts, only one."""
        used = {piece.id for piece in taken}
        by_text = {text: hit_id for hit_id, text in own.items() if hit_id not in used}
        if position == 0 and own.get(first := self._fact.chunk_id or ""):
            by_text[own[first]] = first
        choices = [(end, Piece(hit_id, text)) for text, hit_id in by_text.items() if (end := self._end(text, position))]
        return sorted(choices, key=lambda one: (self.whole.startswith(one[1].text, position), one[0]))

    def _end(self, text: str, position: int) -> int:
        """The end of the text if it covers this position; 0 if it does not."""
        if self.whole.startswith(text, position):
            return position + len(text)
        start = self.whole.find(text, max(0, position - len(text) + 1), position + len(text))
        return start + len(text) if 0 <= start <= position else 0

    def stray(self) -> str | None:
        """A passage that names the turn of this memory but is no piece of its text."""
        return next((self.seen[hit_id] for hit_id in self._of_turn if self.seen[hit_id] not in self.whole), None)

    def altered(self, position: int) -> str | None:
        """The passage that is most like the piece at this position, but no piece of the text, if there is one."""
        from rapidfuzz import fuzz

        strange = {
            text
            for hit_id, text in self.seen.items()
            if text and text not in self.whole and not self._is_of_another(hit_id)
        }
        likeness = {text: fuzz.ratio(text, self.whole[position : position + len(text)]) for text in strange}
        best = max(likeness, key=lambda text: likeness[text], default=None)
        return best if best is not None and likeness[best] >= _SIMILAR_PERCENT else None

    def ids_with(self, text: str) -> set[str]:
        """The passages with exactly this text, whichever memory they belong to."""
        return {hit_id for hit_id, seen in self.seen.items() if seen == text}
