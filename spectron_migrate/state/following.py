"""The files by which `replay --follow` shows other processes that it runs and what it last did."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.state.store import StateStore, read_object, store_at

FOLLOW_FILE = "follow.json"
"""The file with the follower's last report."""
COMPARES_BESIDE = "compares_beside"
"""The field that says whether a large Mem0 is compared beside the rounds, because they read only what changed."""
FOLLOW_LOCK = "follow.lock"

UNDRAINED = (
    "no process drains the outbox, so that writes do not reach Spectron and reads stay with Mem0:"
    " run spectron-migrate replay --follow"
)
"""What `status`, `cutover check` and the adapter report while an outbox is filled and nobody follows."""


def is_followed(state: Path | StateStore) -> bool:
    """Whether a living process runs `replay --follow` on this state."""
    return store_at(state).is_locked(FOLLOW_LOCK)


def why_undrained(state: Path | StateStore) -> str | None:
    """Why captured results do not reach Spectron, according to the process that follows; None if they do.

    Ask only if an outbox is in use.
    """
    if not is_followed(state):
        return UNDRAINED
    problem = (read_object(state, FOLLOW_FILE) or {}).get("problem")
    return str(problem) if problem else None


def compares_beside(state: Path | StateStore) -> bool:
    """Whether a living process follows, and all of Mem0 is to be compared beside its rounds."""
    return is_followed(state) and bool((read_object(state, FOLLOW_FILE) or {}).get(COMPARES_BESIDE))
