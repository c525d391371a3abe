"""What can go wrong with a write on a real network and service, on purpose: for chaos tests of a client.

A plan is a text, one letter a write (`/facts` and `/facts/batch`); after its end all goes well.

    .   goes well
    s   stored, then 500; the key is released, so that the same bytes write again
    k   stored, then 500; the key stays in flight (409) until a restart
    n   not stored, 500; the key stays in flight until a restart
    e   not stored, 500; the key is released
    b   not begun: 503 with `Retry-After: 1`
    l   not begun: 429 with `Retry-After: 1`
    q   not begun: 429 without `Retry-After`, as a spent token budget answers
"""

from __future__ import annotations

from spectron_migrate.local.failures import ApiError
from spectron_migrate.local.idempotency import Idempotency

LETTERS = ".skneblq"
_UNKNOWN = "unknown error"


class Faults:
    """A plan that is worked off."""

    def __init__(self, plan: str, idempotency: Idempotency) -> None:
        """Raises ValueError for a letter that means nothing."""
        if strange := set(plan) - set(LETTERS):
            raise ValueError(f"no such fault: {', '.join(sorted(strange))}")
        self._plan = iter(plan)
        self._idempotency = idempotency

    def before(self, owner: str, key: str, digest: str) -> str:
        """Fail before the write begins, or return the letter that `after` needs; empty if all goes well."""
        fault = next(self._plan, ".")
        if fault == "b":
            raise ApiError(503, "too many requests in flight", retry_after=1)
        if fault in "lq":
            raise ApiError(429, "slow down", retry_after=1 if fault == "l" else None)
        if fault == "n":
            self._idempotency.hold(owner, key, digest)
        if fault in "ne":
            raise ApiError(500, _UNKNOWN)
        return fault.strip(".")

    def after(self, fault: str, owner: str, key: str, digest: str) -> None:
        """Fail after the write was stored."""
        if fault == "k":
            self._idempotency.hold(owner, key, digest)
        if fault:
            raise ApiError(500, _UNKNOWN)
