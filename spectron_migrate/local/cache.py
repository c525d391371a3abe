"""Answers to earlier questions: tier `cache`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectron_migrate.local.recall import Recalled
    from spectron_migrate.local.storage import Vector

SIMILARITY = 0.99
"""Cosine from which on two questions are the same one. The hosted service takes 0.95 with a language model's
embeddings; those here only know words, and at 0.95 they take questions about different things for one."""
MOST = 5000


class AnswerCache:
    """At most `MOST` answers, forgotten all together when anything changes."""

    def __init__(self) -> None:
        """Start empty."""
        self._revision = -1
        self._size = 0
        self._answers: dict[Hashable, list[tuple[Vector, Recalled]]] = {}

    def get(self, place: Hashable, vector: Vector, revision: int) -> Recalled | None:
        """The answer to a question asked in the same place in nearly the same words."""
        if revision != self._revision or not vector.any():
            return None
        for known, answer in self._answers.get(place, ()):
            if float(known @ vector) >= SIMILARITY:
                return answer
        return None

    def put(self, place: Hashable, vector: Vector, revision: int, answer: Recalled) -> None:
        """Remember an answer."""
        if revision != self._revision or self._size >= MOST:
            self._revision, self._size = revision, 0
            self._answers.clear()
        self._answers.setdefault(place, []).append((vector, answer))
        self._size += 1
