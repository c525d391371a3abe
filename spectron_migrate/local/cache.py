"""The response cache: answers of tier `cache`.

The hosted service treats two questions as equal if their embeddings are close (cosine above 0.95). Embeddings here are
means of word vectors, so two questions are equal if they have the same words, in any order and case.
"""

from __future__ import annotations

from collections.abc import Hashable

from spectron_migrate.local.results import QueryResult

MAX_ANSWERS = 5000


class AnswerCache:
    """At most `MAX_ANSWERS` answers; all are dropped when the store changes."""

    def __init__(self) -> None:
        self._revision = -1
        self._answers: dict[Hashable, QueryResult] = {}

    def get(self, question: Hashable, revision: int) -> QueryResult | None:
        """The answer to an equal question, if the store has not changed since."""
        return self._answers.get(question) if revision == self._revision else None

    def put(self, question: Hashable, revision: int, answer: QueryResult) -> None:
        """Keep an answer that was made at this revision of the store."""
        if revision != self._revision or len(self._answers) >= MAX_ANSWERS:
            self._revision = revision
            self._answers.clear()
        self._answers[question] = answer
