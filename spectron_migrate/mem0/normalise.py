"""Converts one row of any Mem0, in any of its formats, to a `Memory`. Pure, and never raises.

There are two formats. A *payload* is what a vector store holds: Mem0's fields and the user's metadata in one object,
the text under `data`. An *item* is what Mem0's API returns: the metadata is an object of its own. Ids stay exactly
as they are. A value whose reading needed an assumption keeps its original under `extra["as_given"]`, and unknown
fields are kept in `extra`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from spectron_migrate.mem0.fields import (
    identifier_of,
    take_app,
    take_categories,
    take_expiry,
    take_identifier,
    take_text,
    take_time,
    with_python_names,
)
from spectron_migrate.mem0.formats.envelopes import has_empty_text, has_text
from spectron_migrate.mem0.formats.other_shapes import is_message
from spectron_migrate.mem0.formats.unwrap import owners_beside, parsed, unwrap
from spectron_migrate.mem0.formats.words import words_in
from spectron_migrate.mem0.states import state_of
from spectron_migrate.records import (
    ENTITY_IDS,
    Json,
    Memory,
    MemoryDraft,
    Skipped,
    State,
    TextAtSource,
    is_unicode,
)

NO_TEXT = "no text field"
NO_ID = "no id"
TEXT_WITHOUT_ID = "a text without an id"
ENTITY_ROW = "a row of Mem0's entity store, not a memory"
NOT_AN_OBJECT = "not an object"
LIST_LEFT_OUT = "a list of rows that is not read"
UNKNOWN_TEXT = "words in fields of which none is known to be a text"
ODD_OWNER = "an owner that is not one id"
MESSAGE = "a message of a conversation, not a memory"
HALF_ID = "its id holds half a letter (a lone surrogate), which nothing can name"

_CAMEL = {
    "user_id": "userId",
    "agent_id": "agentId",
    "run_id": "runId",
    "app_id": "appId",
    "actor_id": "actorId",
    "session_id": "sessionId",
    "created_at": "createdAt",
    "updated_at": "updatedAt",
    "expiration_date": "expirationDate",
    "text_lemmatized": "textLemmatized",
    "attributed_to": "attributedTo",
    "replaced_by": "replacedBy",
    "lifecycle_state": "lifecycleState",
}
_PAYLOAD_CAMEL = {
    name: camel
    for name, camel in _CAMEL.items()
    if name not in ("app_id", "session_id", "replaced_by", "lifecycle_state")
}
"""Only the fields that Mem0 itself writes into a payload: any other camel-case name there is the user's metadata."""

_PAYLOAD_CAMEL_NAMES = frozenset(_PAYLOAD_CAMEL.values())
_LIFTED = ("text_lemmatized", "attributed_to")
"""Fields of a payload that Mem0 computed."""

_JAVASCRIPT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_PYTHON = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?[+-]\d\d:\d\d", re.ASCII)
_NAMED = ("user_id", "agent_id", "run_id", "actor_id", "role", "hash")
_TEXT_OR_NOTHING = frozenset({str, type(None)})
_TEXTS_OF_A_LINE = (
    *(*ENTITY_IDS, "actor_id", "role", "hash", "created_at", "updated_at", "expiration_date"),
    *("text_at", "text_at_source", "state"),
)
_LINKED = frozenset(("linked_memory_ids", "linkedMemoryIds"))
_TEXT_NAMES = ("memory", "data", "text", "content")
_PAYLOAD_TEXT_NAMES = ("data", "memory", "text", "content")
_RESPONSE_FIELDS = (
    *("score", "score_details", "score_breakdown", "rerank_score", "rerankScore", "vector", "vectors", "embedding"),
    *("_score", "_index", "sort"),
)
"""Fields of one API response, not of the memory. They differ between responses, so the memory would look changed."""


def normalise(
    row: Any, *, now: datetime, head: Mapping[str, Json] | None = None, is_plain: bool = False
) -> Memory | Skipped:
    """Convert any raw row: an API item, a stored point, a flat payload, or a line of a dump.

    `head`: the fields of the envelope around the row; the owners that it names count for a row without an owner.
    `is_plain`: whether the row is known to hold no wrappers of Extended JSON.
    """
    if row.__class__ is not dict and not isinstance(row, Mapping):
        return Skipped(id="", reason=NOT_AN_OBJECT, has_content=bool(words_in(row)))
    if "role" in row and is_message(row):
        return Skipped(str(row.get("id") or ""), MESSAGE, has_content=True)
    if "text_at_source" in row and "extra" in row:
        own = _dump_line(row)
        if own is not None:
            return own
    row_id, payload, item = unwrap(row, is_plain=is_plain)
    result: Memory | Skipped
    if payload is not None:
        result = from_payload(row_id, payload, now=now)
    elif "memory" not in item and isinstance(item.get("data"), str):
        result = from_payload(row_id, {name: item[name] for name in item if name != "id"}, now=now)
    else:
        result = from_item(item, now=now)
    if isinstance(result, Skipped):
        return _with_content(result, row)
    if result.user_id is not None or result.entity_ids:
        return result
    raw: dict[str, Json] = {}
    beside = owners_beside(row, head)
    owners: dict[str, Any] = {
        name: value if isinstance(value, str) else identifier_of(value, name, raw) for name, value in beside.items()
    }
    return replace(result, **owners) if owners else result


def _with_content(skipped: Skipped, row: Mapping[str, Json]) -> Skipped:
    """A row of a file that is no memory. Something is lost with it if it has a text, or words in any other field."""
    if skipped.reason == NO_ID and has_text(row):
        return Skipped(skipped.id, TEXT_WITHOUT_ID, has_content=True)
    if skipped.reason in (NO_ID, NO_TEXT) and not has_empty_text(row):
        found = words_in(row)
        if found:
            return Skipped(skipped.id, f"{UNKNOWN_TEXT}: {found}", has_content=True)
    return skipped


def from_payload(row_id: Any, payload: Mapping[str, Json], *, now: datetime) -> Memory | Skipped:
    """Convert a row as the vector store holds it; every field that is not Mem0's own is the user's metadata."""
    rest = dict(payload)
    of_user: dict[str, Json] = {}
    if not _PAYLOAD_CAMEL_NAMES.isdisjoint(rest):
        of_user = _take_times_of_user(rest) if "createdAt" in rest else {}
        with_python_names(rest, _PAYLOAD_CAMEL)
    raw: dict[str, Json] = {}
    memory_id = row_id if row_id.__class__ is str and row_id else identifier_of(row_id, "id", raw)
    if memory_id is None:
        return Skipped(id="", reason=NO_ID)
    if ("entity_type" in rest or "entityType" in rest) and not _LINKED.isdisjoint(rest):
        return Skipped(id=memory_id, reason=ENTITY_ROW)
    text = take_text(rest, _PAYLOAD_TEXT_NAMES, raw)
    if text is None:
        return Skipped(id=memory_id, reason=NO_TEXT)
    extra: dict[str, Json] = {}
    for name in _LIFTED:
        if rest.get(name) is not None:
            extra[name] = rest.pop(name)
    result = _build(memory_id, text, rest, raw, extra, now=now, metadata=None)
    if of_user and isinstance(result, Memory):
        return replace(result, metadata={**result.metadata, **of_user})
    return result


def from_item(item: Mapping[str, Json], *, now: datetime) -> Memory | Skipped:
    """Convert a row as Mem0's API returns it; unknown fields are kept in `extra`."""
    rest = with_python_names({name: value for name, value in item.items() if name not in _RESPONSE_FIELDS}, _CAMEL)
    raw: dict[str, Json] = {}
    memory_id = take_identifier(rest, "id", raw)
    if memory_id is None:
        return Skipped(id="", reason=NO_ID)
    text = take_text(rest, _TEXT_NAMES, raw)
    if text is None:
        return Skipped(id=memory_id, reason=NO_TEXT)
    given = rest.pop("metadata", None)
    held = parsed(given)
    metadata = dict(held) if isinstance(held, Mapping) else {}
    if held is not None and not isinstance(held, Mapping):
        raw["metadata"] = given
    extra: dict[str, Json] = {}
    _lift_own_fields(metadata, rest, extra)
    if rest.get("run_id") is None and rest.get("session_id") is not None:
        rest["run_id"] = rest.pop("session_id")
    return _build(memory_id, text, rest, raw, extra, now=now, metadata=metadata)


def _take_times_of_user(rest: dict[str, Json]) -> dict[str, Json]:
    """In a payload that Mem0 for TypeScript wrote, `created_at` and `updated_at` are the user's metadata.

    Its versions before 3 have no lemmatised text. Their `createdAt` is in JavaScript's format, and a `created_at` that
    Mem0 for Python wrote beside the user's `createdAt` is in Python's.
    """
    ours, theirs = rest["createdAt"], rest.get("created_at")
    is_of_typescript = isinstance(ours, str) and _JAVASCRIPT.fullmatch(ours) is not None
    is_of_python = isinstance(theirs, str) and _PYTHON.fullmatch(theirs) is not None
    if "textLemmatized" not in rest and (is_of_python or not is_of_typescript):
        return {}
    return {name: rest.pop(name) for name in ("created_at", "updated_at") if name in rest}


def _lift_own_fields(metadata: dict[str, Json], rest: dict[str, Json], extra: dict[str, Json]) -> None:
    """Take the fields that Mem0 wrote itself out of the metadata, where some of its listings put them.

    The self-hosted server's listing of all memories is known by its lemmatised text, or by its ids, which are there
    even if they are null; the Platform's, whose metadata is the user's alone, also has `app_id` or categories.
    """
    with_python_names(metadata, {"text_lemmatized": "textLemmatized"})
    is_admin = {"hash", "user_id", "agent_id", "run_id"} <= rest.keys() and not {"app_id", "categories"} & rest.keys()
    if "text_lemmatized" not in metadata and not is_admin:
        return
    with_python_names(metadata, {"attributed_to": "attributedTo"})
    metadata.pop("text_lemmatized", None)  # an index of the text, which the listing of one owner does not show
    attributed_to = metadata.pop("attributed_to", None)
    if attributed_to is not None and rest.get("attributed_to") is None:
        extra["attributed_to"] = attributed_to
    for name in ("role", "actor_id", "user_id", "agent_id", "run_id", "hash"):
        if name in metadata and rest.get(name) in (None, metadata[name]):
            rest[name] = metadata.pop(name)


def _build(
    memory_id: str,
    text: str,
    rest: dict[str, Json],
    raw: dict[str, Json],
    extra: dict[str, Json],
    *,
    now: datetime,
    metadata: dict[str, Json] | None,
) -> Memory | Skipped:
    """Take Mem0's fields out of `rest`; what is left is the metadata of a payload, or unknown fields of an item."""
    if not memory_id.isascii() and not is_unicode(memory_id):
        return Skipped(id=memory_id, reason=HALF_ID, has_content=True)
    given = rest.get("created_at")
    created_at = take_time(rest, "created_at", raw)
    if rest.get("updated_at") == given and not raw:
        rest.pop("updated_at", None)  # it never changed, the most common case: this saves parsing a second time
        updated_at = created_at
    else:
        updated_at = take_time(rest, "updated_at", raw)
    expiration, expired = take_expiry(rest, raw, now) if "expiration_date" in rest else (None, False)
    pop = rest.pop
    named: tuple[str | None, ...] = (
        *(pop("user_id", None), pop("agent_id", None), pop("run_id", None)),
        *(pop("actor_id", None), pop("role", None), pop("hash", None)),
    )
    if not _TEXT_OR_NOTHING.issuperset(map(type, named)) or "" in named:
        named = tuple(identifier_of(value, name, raw) for name, value in zip(_NAMED, named, strict=True))
    user_id, agent_id, run_id, actor_id, role, hash_ = named
    state: State = "expired" if expired else "active"
    app_id: str | None = None
    categories: tuple[str, ...] = ()
    if metadata is None:
        metadata = rest
    else:
        app_id = take_app(rest, raw)
        categories = take_categories(rest, raw)
        state = state_of(rest, raw) or state
        extra.update({name: value for name, value in rest.items() if value is not None})
    if raw:
        odd = next((name for name in ENTITY_IDS if isinstance(raw.get(name), list | Mapping) and raw[name]), None)
        if odd is not None:
            return Skipped(id=memory_id, reason=f"{ODD_OWNER}: {odd}", has_content=True)
        if "as_given" in extra:
            raw["as_given"] = extra["as_given"]
        extra["as_given"] = raw
    made = MemoryDraft()
    made.id, made.memory = memory_id, text
    made.user_id, made.agent_id, made.run_id, made.app_id = user_id, agent_id, run_id, app_id
    made.actor_id, made.role, made.hash = actor_id, role, hash_
    made.metadata, made.categories, made.extra = metadata, categories, extra
    made.created_at, made.updated_at, made.expiration_date = created_at, updated_at, expiration
    made.text_at, made.text_at_source = _text_at(created_at, updated_at)
    made.state, made.history_row = state, None
    return made.finished()


def _text_at(created_at: str | None, updated_at: str | None) -> tuple[str | None, TextAtSource]:
    """Without a history, the later of the two times is the best guess at when the current text was written."""
    if updated_at is not None and (created_at is None or updated_at > created_at):
        return updated_at, "updated_at"
    return created_at, "none" if created_at is None else "created_at"


def _dump_line(row: Mapping[str, Json]) -> Memory | None:
    try:
        memory = Memory.from_json(row)
    except (TypeError, ValueError):
        return None
    if not isinstance(memory.id, str) or not is_unicode(memory.id) or not isinstance(memory.memory, str):
        return None
    has_texts = _TEXT_OR_NOTHING.issuperset(type(getattr(memory, name)) for name in _TEXTS_OF_A_LINE)
    return memory if has_texts and isinstance(memory.history_row, int | None) else None
