"""The files by which `replay --follow` shows other processes that it runs and what it last did."""

from __future__ import annotations

from pathlib import Path

from spectron_migrate.files.locks import is_held

FOLLOW_FILE = "follow.json"
"""What the follower last reported."""
FOLLOW_LOCK = "follow.lock"


def is_followed(state: Path) -> bool:
    """Whether a living process runs `replay --follow` on this state directory."""
    return is_held(state / FOLLOW_LOCK)
