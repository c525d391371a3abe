"""Answers to earlier questions: tier `cache`.

The hosted service takes two questions for one when their embeddings are close (cosine above 0.95). The
embeddings here only know words, so that it is the words that must be the same, in whatever order and case.
"""

from __future__ import annotations

from collections.abc import Hashable

from spectron_migrate.local.results import QueryResult

MOST = 5000


class AnswerCache:
    """At most `MOST` answers, forgotten all together when anything changes."""

    def __init__(self) -> None:
        """Start empty."""
        self._revision = -1
        self._answers: dict[Hashable, QueryResult] = {}

    def get(self, asked: Hashable, revision: int) -> QueryResult | None:
        """The answer to the same question, if nothing has changed since."""
        return self._answers.get(asked) if revision == self._revision else None

    def put(self, asked: Hashable, revision: int, answer: QueryResult) -> None:
        """Remember an answer."""
        if revision != self._revision or len(self._answers) >= MOST:
            self._revision = revision
            self._answers.clear()
        self._answers[asked] = answer
