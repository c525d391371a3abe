"""Hits of a query, in any published format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectron_migrate.records import Hit


def hit_of(row: Mapping[str, Any]) -> Hit:
    """A hit of any generation. Later generations say which session and turn a passage is from."""
    resource = row.get("resource")
    found = resource if isinstance(resource, dict) and resource.get("kind") == "session" else {}
    session, turn = found.get("sessionId"), found.get("turnId")
    return Hit(
        str(row.get("id", "")),
        str(row.get("text", "")),
        str(row.get("source", "")),
        float(row.get("score") or 0.0),
        str(session) if session else None,
        str(turn) if session and turn else None,
    )
