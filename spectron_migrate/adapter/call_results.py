"""What a call left in Mem0, read from its arguments and its answer (pure)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from spectron_migrate.adapter.mem0_calls import ENTITIES, is_id, owners_of
from spectron_migrate.state.call_log import CallResult

ResultsOf = Callable[[str, Mapping[str, Any], Any], list[CallResult] | None]
KEPT = ("actor_id", "role", "expiration_date")
UNSAID = ("system", "developer", "tool", "function")
"""Roles of messages that instruct the model or give it data. Nobody said them, and Mem0 makes no memories of them."""


def results_of(method: str, given: Mapping[str, Any], answer: Any) -> list[CallResult] | None:
    """The memories that changed, in Mem0's order; None if the answer does not show them.

    `given`: the call's arguments by name.
    """
    if method == "add":
        return _added(given, answer)
    memory_id = given.get("memory_id")
    if method == "delete" and memory_id is not None:
        return [CallResult("DELETE", str(memory_id))]
    if method == "update" and memory_id is not None:
        text = given.get("text") if given.get("text") is not None else given.get("data")
        return (
            [CallResult("UPDATE", str(memory_id), text)] if isinstance(text, str) else []
        )  # changing metadata makes no new text
    return None


def messages_of(method: str, given: Mapping[str, Any], answer: Any) -> list[CallResult] | None:
    """The message, then the memories that Mem0 made of it; only the memories if they have the message's own text.

    Several messages count as one, because Mem0 reads them together. A message of which Mem0 made nothing is not kept,
    because no deletion in Mem0 could ever remove it. If Mem0 changed a memory, the new text also holds what an earlier
    message said.
    """
    results = results_of(method, given, answer)
    as_it_is = method != "add" or given.get("infer") is False or given.get("memory_type") is not None
    events = {each.event for each in results or ()}
    if results is None or as_it_is or "ADD" not in events or "UPDATE" in events:
        return results
    text, role = _message_text(given.get("messages"))
    if not text.strip():
        return results
    message = f"message-{uuid.uuid4()}"
    record = {**_about(given), **({"role": role} if role is not None else {})}
    made = [replace(each, record={**(each.record or {}), "message": message}) for each in results]
    return [CallResult("MESSAGE", message, text, record), *made]


def _message_text(messages: Any) -> tuple[str, str | None]:
    """Text and role of the messages given to `add`; an empty text if they contain anything but text."""
    each = [messages] if isinstance(messages, str | Mapping) else messages
    if not isinstance(each, list | tuple):
        return "", None
    rows = [{"content": row} if isinstance(row, str) else row for row in each]
    if not all(isinstance(row, Mapping) for row in rows):
        return "", None
    turns = [(str(row.get("role") or "user"), row.get("content")) for row in rows]
    # A message that calls a tool has no content.
    spoken = [(role, content) for role, content in turns if role not in UNSAID and content is not None]
    if not all(isinstance(content, str) for _, content in spoken):
        return "", None
    if len(spoken) == 1:
        return spoken[0][1], spoken[0][0]
    return "\n".join(f"{role}: {content}" for role, content in spoken), None


def _about(given: Mapping[str, Any]) -> dict[str, Any]:
    """Owners, metadata and expiry that the call gives to all memories that it makes."""
    about: dict[str, Any] = {**owners_of(given), "metadata": dict(given.get("metadata") or {})}
    if given.get("expiration_date") is not None:
        about["expiration_date"] = str(given["expiration_date"])
    return about


def _added(given: Mapping[str, Any], answer: Any) -> list[CallResult] | None:
    rows = answer.get("results") if isinstance(answer, dict) else answer
    if not isinstance(rows, list) or not _tells_owners(given):
        return None
    about = _about(given)
    found: list[CallResult] = []
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
        found.append(CallResult(event, str(row["id"]), text if event != "DELETE" else None, record))
    return found


def _tells_owners(given: Mapping[str, Any]) -> bool:
    """Whether the call shows who owns the memories.

    Some generations of Mem0 trim ids, drop empty ones, or read metadata.
    """
    named = {name: given[name] for name in ENTITIES if given.get(name) is not None}
    hidden = set(given.get("metadata") or {}) & set(ENTITIES) - set(named)
    return not hidden and all(is_id(value) and str(value) == str(value).strip() for value in named.values())
