"""The files by which `replay --follow` shows other processes that it runs and what it last did."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.state.store import StateStore, store_at

FOLLOW_FILE = "follow.json"
"""What the follower last reported."""
FOLLOW_LOCK = "follow.lock"

UNDRAINED = (
    "no process drains the outbox, so that writes do not reach Spectron and reads stay with Mem0:"
    " run spectron-migrate replay --follow"
)
"""What `status`, `cutover check` and the adapter say while an outbox is filled and nobody follows."""


def is_followed(state: Path | StateStore) -> bool:
    """Whether a living process runs `replay --follow` on this state."""
    return store_at(state).is_locked(FOLLOW_LOCK)
