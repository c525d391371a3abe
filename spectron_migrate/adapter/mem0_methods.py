"""Mem0's methods beside `add` and `search`: which change memories, and which Spectron cannot answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectron_migrate.adapter.mem0_calls import owners_of

WRITES = frozenset({"update", "delete", "delete_all", "reset", "batch_update", "batch_delete", "delete_users"})
"""Methods that change memories: their owners are read from Mem0 until the change is in Spectron."""

BY_MEMORY_ID = frozenset({"update", "delete"})
"""Of these, the methods whose first argument is the id of one memory."""

COUNTED = frozenset(
    {
        *WRITES,
        "get",
        "get_all",
        "history",
        "users",
        "feedback",
        "create_memory_export",
        "get_memory_export",
        "get_summary",
        "get_profile",
        "generate_profile",
        "sample_profiles",
    }
)
"""Methods that have no equivalent in Spectron.

They are counted for the gate `calls`, and refused or emulated after `complete`.
"""


def details_of(name: str, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of ids that narrow a listing or a deletion, without their values."""
    return tuple(sorted(owners_of(kwargs))) if name in ("get_all", "delete_all") else ()
