"""What this process itself has begun. The ledger knows all of it, so there is no need to check it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from spectron_migrate.records import Infer, Selector

SessionGroup = tuple[Selector, str | None, Infer]
"""Facts that share sessions: their selector, run and `infer`."""


@dataclass
class OwnWork:
    """Kept over all runs of one process from one ledger."""

    began: str
    """When the process began, by our own clock; after a lost connection, when the new one was made.

    What the ledger recorded earlier may be from another process.
    """
    marked_at: str | None = None
    """When this process last marked the server; None if it has not yet."""
    sessions: set[int] = field(default_factory=set)
    """Sessions that it opened, or listed before it used them."""
    groups: set[SessionGroup] = field(default_factory=set)
    """Groups for which it has searched the scopes or opened a session."""
    ahead: dict[str, asyncio.Future[bool]] = field(default_factory=dict)
    """Scopes that are being registered ahead of their lanes; the result is that of `spectron.scopes.register`."""

    def take_ahead(self, path: str) -> asyncio.Future[bool] | None:
        """The request that is already registering the scope; None if there is none."""
        request = self.ahead.pop(path, None)
        return None if request is None or request.cancelled() else request

    def take_registered(self) -> dict[str, bool]:
        """The scopes that were registered ahead and no lane has asked for, and whether our request created them."""
        made = {path: each for path, each in self.ahead.items() if each.done() and not each.cancelled()}
        for path in made:
            del self.ahead[path]
        return {path: each.result() for path, each in made.items() if each.exception() is None}
