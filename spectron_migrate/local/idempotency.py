"""The same key never writes twice: 24 hours, per context and principal.

An answer is stored in the transaction of the write that it answers, so that a killed server either has both
or neither. A write that fails stores nothing, which releases its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from spectron_migrate.local.errors import ApiError
from spectron_migrate.local.storage import Store, StoredAnswer
from spectron_migrate.local.times import stamp

LIFETIME = timedelta(hours=24)
IN_FLIGHT = "a request with this Idempotency-Key is still in flight"
OTHER_BODY = "this Idempotency-Key was used with a different body"


class Idempotency:
    """The keys in flight, and through the store those answered."""

    def __init__(self, store: Store) -> None:
        """Nothing is in flight at the start, whatever a killed process was doing."""
        self._store = store
        self._in_flight: dict[tuple[str, str], str] = {}

    def stored(self, owner: str, key: str, digest: str, now: datetime) -> bytes | None:
        """The answer that a key already has.

        Raises:
            ApiError: 409 where the key belongs to another body, or its first request still runs.
        """
        running = self._in_flight.get((owner, key))
        if running is not None:
            raise ApiError(409, IN_FLIGHT if running == digest else OTHER_BODY)
        replay = self._store.answer(owner, key)
        if replay is None or replay.created_at <= stamp(now - LIFETIME):
            return None
        if replay.digest != digest:
            raise ApiError(409, OTHER_BODY)
        return replay.body

    @contextmanager
    def reserved(self, owner: str, key: str, digest: str) -> Iterator[None]:
        """Hold a key while its write runs, and let go of it however that ends."""
        self._in_flight[owner, key] = digest
        try:
            yield
        finally:
            del self._in_flight[owner, key]

    def keep(self, owner: str, key: str, digest: str, body: bytes, now: datetime) -> None:
        """Store an answer; call inside the transaction of the write."""
        self._store.put_answer(owner, key, StoredAnswer(digest, body, stamp(now)))

    def sweep(self, now: datetime) -> None:
        """Let go of the answers that protect no longer."""
        with self._store.transaction():
            self._store.drop_answers(stamp(now - LIFETIME))


def digest(path: str, body: bytes) -> str:
    """What makes two requests the same: the call and the bytes of its body."""
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
