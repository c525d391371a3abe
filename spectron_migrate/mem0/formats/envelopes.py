"""Which part of a JSON value is a row, and where the rows of an envelope are. Pure.

A row has an id and a text, whatever else it holds. An envelope has neither, but contains rows: under one of the names
that Mem0, its stores and its tools use or, without such a name, in any list of rows. A table is an object that is a
list of rows in another form (`mem0/formats/tables.py`): columns, or rows by their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from spectron_migrate.mem0.formats.tables import is_table, rows_of_table
from spectron_migrate.records import Json

RELATIONS = "relations"
IDS = ("id", "_id", "memory_id", "uuid")
LANGCHAIN_ID = "_mem0_id"
"""Where Mem0 for TypeScript keeps the id in the metadata of a document of LangChain."""

TEXTS = ("memory", "data", "text", "content", "page_content", "pageContent")
_OWN_TEXTS = ("memory", "data", "page_content", "pageContent")
_INNER = ("payload", "source_payload", "properties", "_source")
ROWS = (
    *("results", "memories", "records", "data", "items", "points", "hits", "rows", "documents", "objects", "vectors"),
    *("matches", "result"),
)
_HOLDERS = ("json", "node")
"""Fields that hold one row, in an item of n8n and in an edge of GraphQL."""

_MARKS = (
    *("user_id", "agent_id", "run_id", "app_id", "created_at", "updated_at", "hash", "metadata", "userId", "agentId"),
    *("runId", "createdAt", "updatedAt"),
)
"""Fields of a memory. An object under its id needs one of them, besides a text, to count as a memory."""

_KEYED_BY_USER = ("users", "by_user", "per_user")
DEEPEST = 64
"""How deep rows are looked for."""


@dataclass(frozen=True, slots=True)
class JsonItem:
    """A row, a relation beside the rows, the end of a list of rows, or something that is not read.

    A `copy` is a row that another file of the same archive should also hold.
    """

    kind: Literal["row", "relation", "envelope", "left_out", "unread", "copy", "none"]
    value: Json
    """For an envelope: its other fields, with those of the objects around it.

    For a list or file that is left out: its name.
    """
    line: int
    head: dict[str, Json] | None = None
    """For a row: the fields of the envelopes around it; None for a row that is in no list."""
    listing: int = 0
    """Number of the list that the row is in, or that ends; 0 for no list."""


def is_row(value: Any) -> bool:
    """Whether it is an object with an id and a text."""
    return isinstance(value, dict) and has_id(value) and has_text(value)


def has_id(row: Mapping[str, Json]) -> bool:
    """Whether one of the fields for an id holds one."""
    if row.get("id"):
        return True
    return (
        any(row.get(name) not in (None, "") for name in IDS)
        or any(isinstance(row.get(name), Mapping) and has_id(row[name]) for name in ("_source", "_additional"))
        or (isinstance(row.get("metadata"), Mapping) and row["metadata"].get(LANGCHAIN_ID) not in (None, ""))
    )


def has_text(row: Mapping[str, Json], names: tuple[str, ...] = TEXTS) -> bool:
    """Whether the object, or a payload in it, holds the text of a memory under one of these names."""
    payload = row.get("payload")
    if row.get("memory").__class__ is str or (payload.__class__ is dict and payload.get("data").__class__ is str):
        return True  # nearly every row
    for name in names:
        value = row.get(name)
        if isinstance(value, str) or (name == "data" and isinstance(value, Mapping) and "memory" in value):
            return True
        if name == "memory" and value is not None and not isinstance(value, list | Mapping):
            return True
    for name in _INNER:
        inner = row.get(name)
        if isinstance(inner, Mapping) and has_text(inner, names):
            return True
        if isinstance(inner, str) and inner.lstrip().startswith("{"):
            return True
    return has_payload_in_metadata(row.get("metadata"))


def has_empty_text(row: Mapping[str, Json]) -> bool:
    """Whether the object, or a payload in it, has fields for the text, but all of them are empty.

    The text of a payload is its `data`; its other fields are the user's metadata.
    """
    payloads = [row[name] for name in _INNER if isinstance(row.get(name), Mapping)]
    texts = [row[name] for name in TEXTS if name in row and not payloads]
    for payload in payloads:
        names = ("data",) if "data" in payload else TEXTS
        texts += [payload[name] for name in names if name in payload]
    return bool(texts) and all(text in (None, "", [], {}) for text in texts)


def has_payload_in_metadata(metadata: Any) -> bool:
    """Whether a field or column named metadata holds Mem0's payload, as in several stores; its text is `data`."""
    return isinstance(metadata, Mapping) and isinstance(metadata.get("data"), str)


def rows_in(value: Any, depth: int = 0) -> bool:
    """Whether a list or an object holds, at some depth, a list of rows as Mem0 writes them."""
    if depth > DEEPEST:
        return False
    if isinstance(value, list):
        return any(_is_own_row(one) or (isinstance(one, list | dict) and rows_in(one, depth + 1)) for one in value)
    if isinstance(value, dict) and not is_row(value):
        if any(_is_own_row(value.get(name)) for name in _HOLDERS):
            return True
        return is_row_table(value) or any(
            rows_in(child, depth + 1)
            for name, child in value.items()
            if name != RELATIONS and isinstance(child, list | dict)
        )
    return False


def row_fields(value: Mapping[str, Json]) -> list[str]:
    """The fields of an envelope that hold its rows; none for a row, or an object that holds no rows."""
    if is_row(value):
        return []
    named = [
        name for name in (*ROWS, *_HOLDERS) if name in value and _holds_rows(value[name], owner_has_id=has_id(value))
    ]
    return named or [name for name, child in value.items() if name != RELATIONS and rows_in(child)]


def is_row_table(value: Any) -> bool:
    """Whether an object is a table: columns, or rows under their ids, such as `{"m1": {"memory": …}}`."""
    return isinstance(value, Mapping) and not has_text(value) and is_table(value, _is_memory)


def fields_left_out(value: Mapping[str, Json], taken: list[str]) -> list[str]:
    """Other fields of an envelope that hold rows. They are not read, because their meaning is unknown."""
    return [
        name
        for name, child in value.items()
        if name not in taken and name != RELATIONS and (rows_in(child) or _texts_in(child))
    ]


def head_of(value: Mapping[str, Json], taken: list[str], around: Mapping[str, Json] | None) -> dict[str, Json]:
    """The fields beside the rows, with those of the envelopes around them. Inner ones count first."""
    return {**(around or {}), **{name: one for name, one in value.items() if name not in taken and name != RELATIONS}}


def head_below(name: str, head: dict[str, Json], key: str) -> dict[str, Json]:
    """The head for what is under `key` of the field `name`: an object such as `users` names the user by its key."""
    return {**head, "user_id": key} if name in _KEYED_BY_USER else head


def walk(
    value: Any,
    line: int,
    numbers: Iterator[int],
    head: dict[str, Json] | None = None,
    *,
    listing: int = 0,
    name: str = "",
) -> Iterator[JsonItem]:
    """The items of a decoded value: a row, a list, or an envelope.

    `numbers` provides a number for each list of rows.
    """
    if isinstance(value, list):
        yield from _walk_list(value, line, numbers, head or {}, name)
        return
    if is_row_table(value):
        rows, left_out = rows_of_table(value, has_id)
        yield from _walk_list(rows, line, numbers, head or {}, name)
        yield from (JsonItem("left_out", one, line) for one in left_out)
        return
    taken = row_fields(value) if isinstance(value, dict) else []
    if not taken or has_text(value):
        yield JsonItem("row", value, line, head, listing)
    if not taken:
        return
    inner = head_of(value, taken, head)
    for one in taken:
        yield from walk(value[one], line, numbers, head_below(name, inner, one), name=one)
    for relation in value.get(RELATIONS) or () if isinstance(value.get(RELATIONS), list) else ():
        yield JsonItem("relation", relation, line)
    for one in fields_left_out(value, taken):
        yield JsonItem("left_out", one, line)


def _walk_list(
    values: list[Any], line: int, numbers: Iterator[int], head: dict[str, Json], name: str
) -> Iterator[JsonItem]:
    number = next(numbers)
    has_rows = not values
    for one in values:
        if is_envelope(one):
            yield from walk(one, line, numbers, head, listing=number, name=name if isinstance(one, list) else "")
        else:
            has_rows = True
            yield JsonItem("row", one, line, head, number)
    if has_rows:
        yield JsonItem("envelope", head, line, None, number)


def is_envelope(value: Any) -> bool:
    """Whether the value contains rows and is not itself one."""
    if isinstance(value, list):
        return any(is_row(one) for one in value) or rows_in(value)
    return isinstance(value, dict) and not is_row(value) and (is_row_table(value) or bool(row_fields(value)))


def _is_memory(value: Mapping[str, Json]) -> bool:
    """Whether an object has the text and another field of a memory, with or without an id."""
    parts = [value, *(_object_in(value.get(name)) for name in _INNER)]
    return has_text(value, _OWN_TEXTS) and any(name in part for part in parts for name in _MARKS)


def _object_in(value: Any) -> Mapping[str, Json]:
    """A payload, which some stores keep as JSON text; empty if the value is neither."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, Mapping) else {}


def _texts_in(value: Any, depth: int = 0) -> bool:
    """Whether a list, at some depth, has objects with the text of a memory, with or without an id.

    A list that is nested deeper than rows are looked for counts as having some.
    """
    if depth > DEEPEST:
        return isinstance(value, list | dict) and bool(value)
    if isinstance(value, list):
        return any(
            _texts_in(one, depth + 1)
            or (isinstance(one, Mapping) and (has_text(one, _OWN_TEXTS) or bool(_object_in(one.get("memory")))))
            for one in value
        )
    return isinstance(value, Mapping) and any(_texts_in(one, depth + 1) for one in value.values())


def _is_own_row(value: Any) -> bool:
    return isinstance(value, Mapping) and has_id(value) and has_text(value, _OWN_TEXTS)


def _holds_rows(value: Any, *, owner_has_id: bool) -> bool:
    """Whether a field with a usual name is a list of rows: by its rows or, if no id is beside it, by its objects."""
    if isinstance(value, list):
        if any(is_row(one) for one in value) or rows_in(value):
            return True
        return not owner_has_id and (not value or any(isinstance(one, Mapping) for one in value))
    return isinstance(value, Mapping) and (is_row(value) or is_row_table(value) or bool(row_fields(value)))
