"""What this process itself has begun in a ledger: the ledger knows all of that, so no proof of it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from spectron_migrate.records import Infer, Selector

SessionGroup = tuple[Selector, str | None, Infer]
"""Facts that share sessions: their selector, run and `infer`."""


@dataclass
class OwnWork:
    """Kept over all runs of one process from one ledger."""

    began: str
    """By our own clock; after a lost connection, when it was made anew. What the ledger noted before that may be from
    another process."""
    marked_at: str | None = None
    """When this process last marked the server; None if it has not yet."""
    sessions: set[int] = field(default_factory=set)
    """Sessions that it opened, or listed before it used them."""
    groups: set[SessionGroup] = field(default_factory=set)
    """Those for which it has looked in their scopes, or opened a session."""
