"""Idempotency keys: for 24 hours, a key of a principal writes once.

The answer is stored in the transaction of its write, so that a killed server has both or neither. A write that fails
stores no answer, which releases its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from spectron_migrate.local.errors import ApiError
from spectron_migrate.local.rows import StoredAnswer
from spectron_migrate.local.storage import Store
from spectron_migrate.local.times import stamp

LIFETIME = timedelta(hours=24)
IN_FLIGHT = "a request with this Idempotency-Key is still in flight"
OTHER_BODY = "this Idempotency-Key was used with a different body"


class Idempotency:
    """Keys in flight (in memory) and answered keys (in the store)."""

    def __init__(self, store: Store) -> None:
        """Nothing is in flight at the start, even if a killed process had requests."""
        self._store = store
        self._in_flight: dict[tuple[str, str], str] = {}

    def stored(self, owner: str, key: str, digest: str, now: datetime) -> bytes | None:
        """The stored answer of a key; None if it has none.

        Raises:
            ApiError: 409 if the key was used with another body, or its first request is still running.
        """
        running = self._in_flight.get((owner, key))
        if running is not None:
            raise ApiError(409, IN_FLIGHT if running == digest else OTHER_BODY)
        answer = self._store.answer(owner, key)
        if answer is None or answer.created_at <= stamp(now - LIFETIME):
            return None
        if answer.digest != digest:
            raise ApiError(409, OTHER_BODY)
        return answer.body

    @contextmanager
    def reserved(self, owner: str, key: str, digest: str) -> Iterator[None]:
        """Mark a key as in flight for the duration of the block."""
        self._in_flight[owner, key] = digest
        try:
            yield
        finally:
            del self._in_flight[owner, key]

    def keep(self, owner: str, key: str, digest: str, body: bytes, now: datetime) -> None:
        """Store an answer; call in the transaction of the write."""
        self._store.put_answer(owner, key, StoredAnswer(digest, body, stamp(now)))

    def drop_expired(self, now: datetime) -> None:
        """Drop answers that are older than 24 hours."""
        with self._store.transaction():
            self._store.drop_answers(stamp(now - LIFETIME))


def digest(path: str, body: bytes) -> str:
    """Identifies a request by its path and the bytes of its body."""
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
