"""What this process itself has begun. The ledger knows all of it, so it need not be checked."""

from __future__ import annotations

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
    """Groups for which it has searched the scopes, or opened a session."""
