"""What a call left in Mem0, read from its arguments and its answer (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectron_migrate.adapter.asked import ENTITIES, is_id, owners_of
from spectron_migrate.state.outbox import Result

KEPT = ("actor_id", "role", "expiration_date")


def results_of(method: str, given: Mapping[str, Any], answer: Any) -> list[Result] | None:
    """The memories that changed, in Mem0's order; None where the answer does not say.

    `given`: the call's arguments by name.
    """
    if method == "add":
        return _added(given, answer)
    memory_id = given.get("memory_id")
    if method == "delete" and memory_id is not None:
        return [Result("DELETE", str(memory_id))]
    if method == "update" and memory_id is not None:
        text = given.get("text") if given.get("text") is not None else given.get("data")
        return [Result("UPDATE", str(memory_id), text)] if isinstance(text, str) else []  # metadata is no new text
    return None


def _added(given: Mapping[str, Any], answer: Any) -> list[Result] | None:
    rows = answer.get("results") if isinstance(answer, dict) else answer
    if not isinstance(rows, list) or not _tells_owners(given):
        return None
    about = {**owners_of(given), "metadata": dict(given.get("metadata") or {})}
    if given.get("expiration_date") is not None:
        about["expiration_date"] = str(given["expiration_date"])
    found: list[Result] = []
    for row in rows:
        event = row.get("event") if isinstance(row, dict) else None
        if event == "NONE":
            continue
        if event not in ("ADD", "UPDATE", "DELETE") or not row.get("id"):
            return None
        text = row.get("memory")
        if event != "DELETE" and not isinstance(text, str):
            return None
        record = (
            {**about, **{name: row[name] for name in KEPT if row.get(name) is not None}} if event == "ADD" else None
        )
        found.append(Result(event, str(row["id"]), text if event != "DELETE" else None, record))
    return found


def _tells_owners(given: Mapping[str, Any]) -> bool:
    """Whether the call says whose its memories are: some generations trim ids, drop empty ones, or read metadata."""
    named = {name: given[name] for name in ENTITIES if given.get(name) is not None}
    hidden = set(given.get("metadata") or {}) & set(ENTITIES) - set(named)
    return not hidden and all(is_id(value) and str(value) == str(value).strip() for value in named.values())
