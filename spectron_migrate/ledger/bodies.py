"""The body of POST /facts for a memory."""

from __future__ import annotations

from collections.abc import Sequence

from spectron_migrate.records import Infer, Json, Memory, Placement, has_time, is_time


def fact_body(memory: Memory, placed: Placement) -> dict[str, Json]:
    """The body of a memory with a placement, without the session."""
    return build_body(
        text=memory.memory,
        infer=infer_of(memory, placed),
        selector=placed.selector,
        role=role_of(memory),
        category=placed.category,
        text_at=memory.text_at,
        labels=placed.labels,
    )


def infer_of(memory: Memory, placed: Placement) -> Infer:
    """A memory without a time is sent without extraction, because it must not supersede anything."""
    return placed.infer if has_time(memory) else "none"


def role_of(memory: Memory) -> str:
    """The role to send: Spectron knows only two."""
    return "assistant" if memory.role == "assistant" else "user"


def build_body(
    *,
    text: str,
    infer: str,
    selector: Sequence[Sequence[str]],
    role: str | None,
    category: str | None,
    text_at: str | None,
    labels: Sequence[str],
) -> dict[str, Json]:
    """The fields of the request, without the session."""
    body: dict[str, Json] = {
        "text": text,
        "infer": infer,
        "scopes": [list(clause) for clause in selector],
        "role": role,
        "memory_category": category,
    }
    if text_at is not None and is_time(text_at):
        body["observed_at"] = text_at
    if labels:
        body["labels"] = list(labels)
    return body
