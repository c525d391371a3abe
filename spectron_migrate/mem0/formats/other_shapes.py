"""Describes JSON values that are no rows of Mem0: what they are, by their fields, and what to provide instead. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spectron_migrate.mem0.formats.envelopes import IDS, TEXTS, has_id, has_text
from spectron_migrate.mem0.formats.words import words_in
from spectron_migrate.records import NAMED

_FORMATS = "a list of memories, an object with results, memories or records, JSON Lines, or OpenMemory's zip"
_KNOWN = f"known are {_FORMATS}"
_ROWS = "give rows with an `id` and a `memory` each"
_STORE = "name the store: `--mem0-config FILE`"
_NO_IDS = f"memories without ids cannot be told apart: export the store or the Platform itself; {_KNOWN}"
_ROLES = ("user", "assistant", "system", "tool", "developer", "human", "ai", "userMessage", "apiMessage")
_REDIS_TYPES = ("hash", "string", "list", "set", "zset", "ReJSON-RL")
_TYPED = ("stringValue", "integerValue", "structValue", "listValue", "string_value", "S", "N", "M", "BOOL")
_NO_CONTENT = frozenset(
    ("id", "_id", "payload", "values", "vector", "vectors", "score", "version", "metadata", "order_value")
)

_Value = Mapping[str, Any]
_SHAPES: tuple[tuple[Callable[[_Value], bool], str, str], ...] = (
    (
        lambda value: any(
            isinstance(value.get(name), Mapping) for name in ("vector_store", "vectorStore", "mem0", "oss")
        ),
        "a configuration of Mem0",
        "give it as `--mem0-config FILE`: then the store that it names is read",
    ),
    (
        lambda value: {"old_memory", "new_memory"} <= value.keys() or {"previous_value", "new_value"} <= value.keys(),
        "Mem0's history",
        "this is Mem0's history, which has texts that were replaced or deleted: export the store or the Platform, "
        "which has what Mem0 holds now",
    ),
    (
        lambda value: "message" in value and not has_text(value) and bool({"event_id", "id"} & value.keys()),
        "Mem0's answer to a request that it works on",
        "it holds no memories: list them (`mem0 list -o json`), or fetch the export once it is ready",
    ),
    (
        lambda value: {"name", "type", "total_memories"} <= value.keys(),
        "a list of owners",
        "it holds no memories: list those of each owner, or export the Platform itself",
    ),
    (
        lambda value: {"entityType", "observations"} <= value.keys() or "relationType" in value,
        "the knowledge graph of the MCP server `memory`",
        f"it is not Mem0's, and its observations have no ids: {_ROWS}",
    ),
    (
        lambda value: "source" in value and not {"relationship", "relation"}.isdisjoint(value),
        "graph relations",
        "they are not moved, because Spectron extracts its own: export the memories",
    ),
    (
        lambda value: {"namespace", "key", "value"} <= value.keys(),
        "items of LangGraph's store",
        "with the field of your text: `jq 'map({id: .key, memory: .value.text, user_id: .namespace[-1], created_at})'`",
    ),
    (
        lambda value: {"key", "string_value"} <= value.keys(),
        "a table of Chroma's own database",
        _STORE,
    ),
    (
        lambda value: any(
            _object(one).get("type") in _REDIS_TYPES and "value" in one for one in (value, *value.values())
        ),
        "keys of Redis",
        f"{_STORE}; or take the hashes: `jq .value FILE`",
    ),
    (
        lambda value: value.keys() == {"key", "value"},
        "entries of an object, as jq's `to_entries` writes them",
        "put them back: `jq from_entries FILE`",
    ),
    (
        lambda value: bool({"agent_type", "core_memory"} & value.keys()) or {"agents", "blocks"} <= value.keys(),
        "an agent of Letta",
        f"it is not Mem0's: {_ROWS}",
    ),
    (
        lambda value: (
            bool({"source_node_uuid", "fact"} & value.keys())
            or {"nodes", "edges"} <= value.keys()
            or "fact" in _object(_first(value.get("facts")))
        ),
        "facts of Zep or Graphiti",
        "they are not Mem0's: `jq 'map({id: .uuid, memory: .fact, created_at})'` makes rows of a list of them",
    ),
    (
        lambda value: _is_message(value) or any(_is_message(_first(one)) for one in value.values()),
        "messages of a conversation",
        "Mem0 makes memories of messages, and these are not the memories: export the store or the Platform itself",
    ),
    (
        lambda value: {"lc", "kwargs"} <= value.keys(),
        "documents as LangChain serialises them",
        "take them out: `jq 'map(.kwargs)' FILE`",
    ),
    (
        lambda value: "page_content" in value and has_id(_object(value.get("metadata"))) and not has_id(value),
        "documents of LangChain, without ids",
        "if the metadata has them: `jq 'map(. + {id: .metadata.id})' FILE`",
    ),
    (
        lambda value: "docstore/data" in value,
        "a document store of LlamaIndex",
        """take its nodes: `jq '."docstore/data" | map(.__data__ | . + {id: .id_})' FILE`""",
    ),
    (
        lambda value: "id_" in value,
        "nodes of LlamaIndex",
        "name their ids: `jq 'map(. + {id: .id_})' FILE`",
    ),
    (
        lambda value: "_airbyte_data" in value,
        "records of Airbyte",
        "take the rows: `jq -c '._airbyte_data' FILE`",
    ),
    (
        lambda value: {"type", "stream"} <= value.keys(),
        "messages of a Singer tap",
        """take the rows: `jq -c 'select(.type == "RECORD").record' FILE`""",
    ),
    (
        lambda value: {"before", "after", "op"} <= value.keys(),
        "changes of a table",
        f"changes are not what the table holds now: {_STORE}",
    ),
    (
        lambda value: "entries" in _object(value.get("log")),
        "a recording of a browser (HAR)",
        "save the body of the response alone",
    ),
    (
        lambda value: {"columns", "data"} <= value.keys() or "datarows" in value or _is_columns(value),
        "columns and values apart",
        """write an object for each row: `df.to_json(orient="records")`""",
    ),
    (
        lambda value: {"type", "id", "attributes"} <= value.keys(),
        "resources of JSON:API",
        "bring them together: `jq '.data | map(.attributes + {id: .id})' FILE`",
    ),
    (
        lambda value: (
            _is_typed(value) or any(_is_typed(_object(one)) for one in (*value.values(), _first(value.get("Items"))))
        ),
        "values that carry their types, as protobuf or DynamoDB write them",
        f"write plain values; from Qdrant, over REST instead of gRPC: {_ROWS}",
    ),
    (
        lambda value: isinstance(value.get("id"), Mapping) and bool({"uuid", "num"} & value["id"].keys()),
        "points of Qdrant's gRPC",
        "make the ids plain: `jq 'map(.id |= (.uuid // .num))' FILE`",
    ),
    (
        lambda value: has_id(value) and value.keys() <= _NO_CONTENT and not _object(value.get("payload")),
        "ids without what belongs to them",
        "list them again with their payload or metadata (`with_payload: true`, `includeMetadata: true`)",
    ),
    (
        lambda value: _has_lower_case_fields(value),
        "fields in capital letters",
        "name them as Mem0 does: id, memory or payload, user_id, created_at",
    ),
    (
        lambda value: len(value) == 1 and all(_is_json_text(one) for one in value.values()),
        "rows as JSON text in a column",
        "unwrap them: `jq '.[] | .[] | fromjson' FILE`",
    ),
    (
        lambda value: (
            not {*IDS, *TEXTS} & value.keys()
            and bool(value)
            and all(isinstance(one, str) and words_in(one) for one in value.values())
        ),
        "texts by names",
        "if the names are the ids: `jq 'to_entries | map({id: .key, memory: .value})' FILE`; owners and times are lost",
    ),
)
"""Which objects, what they are, and what to do. The first match counts."""


def describe(value: Any) -> str:
    """A value that is not a row, by its fields and what it is."""
    if not isinstance(value, Mapping):
        return "not an object"
    names = ", ".join(map(str, list(value)[:NAMED])) + (", …" if len(value) > NAMED else "")
    if not names:
        return "an empty object"
    if what := next((what for is_one, what, _ in _SHAPES if is_one(value)), ""):
        return f"an object with {names}: {what}"
    missing = "an id" if has_text(value) else "a text" if has_id(value) else ""
    return f"an object with {names}: {missing} is missing" if missing else f"an object with {names}"


def advice(value: Any) -> str:
    """What to provide instead of a value that is not a row."""
    if not isinstance(value, Mapping):
        if _is_json_text(value):
            return "these are JSON texts in a list: `jq '.[] | fromjson' FILE`"
        return f"a list needs an object for each row; {_KNOWN}"
    result = value.get("result")
    answer = result if isinstance(result, Mapping) else value
    if isinstance(answer.get("content"), list) and "role" not in answer:
        place = ".result.content[].text" if answer is not value else ".content[].text"
        return f"this is what an MCP server answered; its memories are a text in it: `jq -r '{place}' FILE`"
    if value.keys() & {"error", "detail"} and not has_text(value):
        return "this is an error that a server answered, not memories: ask it again"
    if hint := next((hint for is_one, _, hint in _SHAPES if is_one(value)), ""):
        return hint
    return _NO_IDS if has_text(value) and not has_id(value) else _KNOWN


def is_message(row: Mapping[str, Any]) -> bool:
    """Whether a row is a message of a conversation: a role, and no text but its content."""
    return _is_message(row) and not any(row.get(name) for name in ("memory", "data", "payload", "metadata"))


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.get("content") in (None, ""):
        return False
    return value.get("role") in _ROLES or "role_type" in value


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _is_typed(value: Mapping[str, Any]) -> bool:
    """Whether the fields, or those of its payload or `fields`, are objects that name the type of their value."""
    fields = (value, _object(value.get("payload")), _object(value.get("fields")))
    return any(
        isinstance(one, Mapping) and len(one) == 1 and next(iter(one)) in _TYPED
        for part in fields
        for one in part.values()
    )


def _is_columns(value: Mapping[str, Any]) -> bool:
    """Whether the fields of a memory are lists, or objects by the number of the row, of the same length."""
    parts = [value[name] for name in (*IDS, *TEXTS) if isinstance(value.get(name), list | Mapping)]
    return len(parts) > 1 and len({len(part) for part in parts}) == 1


def _has_lower_case_fields(value: Mapping[str, Any]) -> bool:
    lower = {str(name).lower(): one for name, one in value.items()}
    return lower.keys() != value.keys() and has_id(lower) and has_text(lower)


def _is_json_text(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("{")
