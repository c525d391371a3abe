"""Mem0's calls beside `add` and `search`, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectron_migrate.adapter.mem0_calls import owners_of

WRITES = frozenset({"update", "delete", "delete_all", "reset", "batch_update", "batch_delete", "delete_users"})
"""What changes memories: reads of whoever it is about come from Mem0 until it has come along."""

BY_MEMORY_ID = frozenset({"update", "delete"})
"""Writes whose first argument is one memory's id."""

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
"""What Spectron has no equivalent of: counted for the gate, refused or answered otherwise once it is the truth."""


def details_of(name: str, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """By what a listing or a deletion is narrowed, without the values."""
    return tuple(sorted(owners_of(kwargs))) if name in ("get_all", "delete_all") else ()
