"""Objects that are lists of rows in another form: columns, as from Chroma's `get`, and rows by ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spectron_migrate.records import Json

_IDS = "ids"
_COLUMNS = ("metadatas", "documents")
_NO_IDS = (
    *("payload", "source_payload", "properties", "_source", "metadata", "memory", "document", "data", "result"),
    *("record", "item", "row", "kwargs", "json", "node", "value", "entry", "doc", "body", "object"),
)
"""Names of fields that hold one object. Such a name is not the id of the object."""


def is_table(value: Mapping[str, Json], is_memory: Callable[[Mapping[str, Json]], bool]) -> bool:
    """Whether the object is a list of rows. `is_memory` says whether a row is a memory, with or without its id."""
    return _is_columns(value) or _is_by_id(value, is_memory)


def rows_of_table(
    value: Mapping[str, Json], has_own_id: Callable[[Mapping[str, Json]], bool]
) -> tuple[list[Json], list[str]]:
    """The rows of a table, each with its id; and the columns whose length differs from that of the ids."""
    if not _is_columns(value):
        return [row if has_own_id(row) else {**row, "id": key} for key, row in value.items()], []
    ids = _flat(value[_IDS])
    columns = {name: _flat(value[name]) for name in _COLUMNS if isinstance(value.get(name), list)}
    odd = [name for name, column in columns.items() if len(column) != len(ids)]
    rows = []
    for number, memory_id in enumerate(ids):
        cells = {name: column[number] if number < len(column) else None for name, column in columns.items()}
        metadata = cells.get("metadatas")
        payload = dict(metadata) if isinstance(metadata, Mapping) else {}
        if payload.get("data") is None and isinstance(cells.get("documents"), str):
            payload["data"] = cells["documents"]
        rows.append({"id": memory_id, "payload": payload})
    return rows, odd


def _is_columns(value: Mapping[str, Json]) -> bool:
    ids = value.get(_IDS)
    return isinstance(ids, list) and bool(ids) and any(isinstance(value.get(name), list) for name in _COLUMNS)


def _is_by_id(value: Mapping[str, Json], is_memory: Callable[[Mapping[str, Json]], bool]) -> bool:
    if (
        not value
        or any(not isinstance(one, Mapping) for one in value.values())
        or any(map(value.__contains__, _NO_IDS))
    ):
        return False
    return any(map(is_memory, value.values()))


def _flat(column: Any) -> list[Json]:
    """A column, flattened: for several queries it is a list of lists."""
    if column and all(isinstance(one, list) for one in column):
        return [cell for one in column for cell in one]
    return list(column)
