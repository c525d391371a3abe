"""Which part of a JSON value is a row, and where the rows of an envelope are. Pure.

A row has an id and a text, whatever else it holds. An envelope has neither, and somewhere in it are rows: under one of
the names that Mem0, its stores and its tools use, or, if there is none of those, in any list of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spectron_migrate.records import Json

RELATIONS = "relations"
IDS = ("id", "_id", "memory_id")
_TEXTS = ("memory", "data", "text", "content")
_OWN_TEXTS = ("memory", "data")
_INNER = ("payload", "source_payload", "_source")
_ROWS = ("results", "memories", "records", "data", "items", "points", "hits", "rows", "documents", "result")
_KEYED_BY_USER = ("users", "by_user", "per_user")
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class JsonItem:
    """A row, a relation beside the rows, the end of a list of rows, or a list of rows that is not read."""

    kind: Literal["row", "relation", "envelope", "left_out"]
    value: Json
    """Of an envelope: its other fields, with those of the objects around it. Of a list left out: its name."""
    line: int
    head: dict[str, Json] | None = None
    """Of a row: the fields of the envelopes around it; None for a row in no list."""
    listing: int = 0
    """Number of the list that the row is in, or that ends; 0: in no list."""


def is_row(value: Any) -> bool:
    """Whether it is an object with an id and a text."""
    return isinstance(value, Mapping) and has_id(value) and has_text(value)


def has_id(row: Mapping[str, Json]) -> bool:
    """Whether one of the fields for an id holds one."""
    return any(row.get(name) not in (None, "") for name in IDS) or (
        isinstance(row.get("_source"), Mapping) and has_id(row["_source"])
    )


def has_text(row: Mapping[str, Json], names: tuple[str, ...] = _TEXTS) -> bool:
    """Whether the object, or a payload in it, holds the text of a memory under one of these names."""
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


def has_payload_in_metadata(metadata: Any) -> bool:
    """Several stores hold Mem0's payload in a field or column named metadata; `data` is the text of a payload."""
    return isinstance(metadata, Mapping) and isinstance(metadata.get("data"), str)


def rows_in(value: Any, depth: int = 0) -> bool:
    """Whether a list or an object holds, at some depth, a list of rows as Mem0 writes them."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, list):
        return any(_is_own_row(one) or (isinstance(one, list | dict) and rows_in(one, depth + 1)) for one in value)
    if isinstance(value, dict) and not is_row(value):
        return any(
            rows_in(child, depth + 1)
            for name, child in value.items()
            if name != RELATIONS and isinstance(child, list | dict)
        )
    return False


def row_fields(value: Mapping[str, Json]) -> list[str]:
    """The fields of an envelope that hold its rows; none for a row, or an object that holds no rows."""
    if is_row(value):
        return []
    named = [name for name in _ROWS if name in value and _holds_rows(value[name], owner_has_id=has_id(value))]
    return named or [name for name, child in value.items() if name != RELATIONS and rows_in(child)]


def fields_left_out(value: Mapping[str, Json], taken: list[str]) -> list[str]:
    """The other fields of an envelope that hold rows, which are not read: what they mean is unknown."""
    return [name for name, child in value.items() if name not in taken and name != RELATIONS and rows_in(child)]


def head_of(value: Mapping[str, Json], taken: list[str], around: Mapping[str, Json] | None) -> dict[str, Json]:
    """The fields beside the rows, with those of the envelopes around, of which the inner ones count."""
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
    """The items of a decoded value: a row, a list, or an envelope. `numbers` gives each list of rows its number."""
    if isinstance(value, list):
        yield from _walk_list(value, line, numbers, head or {}, name)
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
    """Whether rows are in the value, and it is none itself."""
    if isinstance(value, list):
        return any(is_row(one) for one in value) or rows_in(value)
    return isinstance(value, dict) and bool(row_fields(value))


def _is_own_row(value: Any) -> bool:
    return isinstance(value, Mapping) and has_id(value) and has_text(value, _OWN_TEXTS)


def _holds_rows(value: Any, *, owner_has_id: bool) -> bool:
    """Whether a field with one of the usual names is a list of rows: by its rows, or, beside no id, by its objects."""
    if isinstance(value, list):
        if any(is_row(one) for one in value) or rows_in(value):
            return True
        return not owner_has_id and (not value or any(isinstance(one, Mapping) for one in value))
    return isinstance(value, Mapping) and (is_row(value) or bool(row_fields(value)))
