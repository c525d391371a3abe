"""The files by which `replay --follow` shows other processes that it runs and what it last did."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.state.store import StateStore, read_object, store_at

FOLLOW_FILE = "follow.json"
"""What the follower last reported."""
COMPARES_BESIDE = "compares_beside"
"""There: whether its rounds read only what changed, so that all of a large Mem0 is compared beside them."""
FOLLOW_LOCK = "follow.lock"

UNDRAINED = (
    "no process drains the outbox, so that writes do not reach Spectron and reads stay with Mem0:"
    " run spectron-migrate replay --follow"
)
"""What `status`, `cutover check` and the adapter say while an outbox is filled and nobody follows."""


def is_followed(state: Path | StateStore) -> bool:
    """Whether a living process runs `replay --follow` on this state."""
    return store_at(state).is_locked(FOLLOW_LOCK)


def why_undrained(state: Path | StateStore) -> str | None:
    """Why what was captured does not reach Spectron, as far as the process that follows has said; None while it does.

    Ask only where an outbox is filled.
    """
    if not is_followed(state):
        return UNDRAINED
    problem = (read_object(state, FOLLOW_FILE) or {}).get("problem")
    return str(problem) if problem else None


def compares_beside(state: Path | StateStore) -> bool:
    """Whether a living process follows, and all of Mem0 is to be compared beside its rounds."""
    return is_followed(state) and bool((read_object(state, FOLLOW_FILE) or {}).get(COMPARES_BESIDE))
