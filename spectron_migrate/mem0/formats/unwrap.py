"""Brings a raw row into one of two formats, an item or an id with a payload, wherever it came from. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from spectron_migrate.mem0.formats.envelopes import IDS, LANGCHAIN_ID, has_payload_in_metadata, has_text
from spectron_migrate.records import ENTITY_IDS, Json

_CAMEL_IDS = {"user_id": "userId", "agent_id": "agentId", "app_id": "appId", "run_id": "runId"}
_PAGES = ("page_content", "pageContent")
"""The text of a document of LangChain, whose metadata is beside it."""

_POINT = {"id", "payload"}
_BESIDE = ("export_scope", "scope", "export_metadata", "filters", "user")
"""Fields in which a row or an envelope names the owners."""


def unwrap(
    row: Mapping[str, Json], *, is_plain: bool = False
) -> tuple[Any, Mapping[str, Json] | None, Mapping[str, Json]]:
    """The id of a row, its payload if it has one, and the row itself as an item.

    Known are a stored point with its payload, as an object or as JSON text, under `payload` or `metadata`; an object of
    Weaviate; a document of LangChain; a hit of Elasticsearch or OpenSearch; and the Extended JSON of MongoDB's tools.

    `is_plain`: whether the wrappers of Extended JSON were already removed.
    """
    if row.keys() == _POINT and row["id"].__class__ is str and row["id"] and row["payload"].__class__ is dict:
        return row["id"], row["payload"] if is_plain else plain(row["payload"]), row  # the most common case
    item = dict(row) if is_plain else {name: plain(value) for name, value in row.items()}
    source = item.get("_source")
    if isinstance(source, Mapping):
        item = {"_id": item.get("_id"), **source}
    if isinstance(item.get("_additional"), Mapping):
        item = {**item.pop("_additional"), **item}
    row_id = item.get("id")
    if row_id in (None, ""):
        alias = next((name for name in IDS if item.get(name) not in (None, "")), "id")
        row_id = item.pop(alias, row_id)
        item["id"] = row_id
    metadata = item.get("metadata")
    if row_id in (None, "") and isinstance(metadata, Mapping) and LANGCHAIN_ID in metadata:
        row_id, item["metadata"] = (
            metadata[LANGCHAIN_ID],
            {key: metadata[key] for key in metadata if key != LANGCHAIN_ID},
        )
    for name in ("source_payload", "payload", "properties", "metadata"):
        inner = parsed(item.get(name))
        if not isinstance(inner, Mapping):
            continue
        if name == "properties":  # every object has all properties of its class
            inner = {key: value for key, value in inner.items() if value is not None}
        is_payload = has_payload_in_metadata(inner and {"data": inner.get("data")}) if name == "metadata" else True
        if name == "source_payload" or (is_payload and not _has_own_text(item)):
            return row_id, inner, item
    page = next((item[name] for name in _PAGES if isinstance(item.get(name), str)), None)
    if page is not None and not _has_own_text(item):
        inner = parsed(item.get("metadata"))
        return row_id, {**(inner if isinstance(inner, Mapping) else {}), "data": page}, item
    return row_id, None, item


def parsed(value: Any) -> Any:
    """The object or list that a JSON text contains; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return plain(json.loads(value))
        except (ValueError, RecursionError):
            return value
    return value


def plain(value: Any) -> Any:
    """Without the wrappers of MongoDB's Extended JSON, such as `{"$date": …}`."""
    if isinstance(value, list):
        return [plain(one) if isinstance(one, dict | list) else one for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, inner)] = value.items()
        if name in ("$oid", "$uuid", "$date"):
            return plain(inner)
        if name in ("$numberLong", "$numberInt", "$numberDouble", "$numberDecimal") and isinstance(inner, str):
            return _number(inner)
    return {name: plain(one) if isinstance(one, dict | list) else one for name, one in value.items()}


def owners_beside(*places: Mapping[str, Json] | None) -> dict[str, Json]:
    """The owners that the first of these places names: a row, then the envelope around it."""
    for place in places:
        parts = list(_parts(place or {}))
        for part in parts:
            owners = {name: _owner(part, name) for name in ENTITY_IDS}
            found = {name: value for name, value in owners.items() if value is not None}
            if found:
                return found
        user = next((value for part in parts if (value := _user_in(part)) is not None), None)
        if user is not None:
            return {"user_id": user}
    return {}


def _parts(place: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    yield place
    for name in _BESIDE:
        part = place.get(name)
        if isinstance(part, Mapping):
            yield part
            conditions = part.get("AND")
            if isinstance(conditions, list) and all(isinstance(one, Mapping) for one in conditions):
                yield {key: value for one in conditions for key, value in one.items()}


def _owner(part: Mapping[str, Json], name: str) -> Json:
    names = (name, _CAMEL_IDS[name], *(("session_id", "sessionId") if name == "run_id" else ()))
    return next((value for one in names if (value := _id_in(part.get(one))) is not None), None)


def _user_in(part: Mapping[str, Json]) -> Json:
    """The user under `user`: the id, or an object with it.

    An `app` or `agent` there may be the program that wrote it.
    """
    value = part.get("user")
    return _id_in(value["id"] if isinstance(value, Mapping) and "id" in value else value)


def _id_in(value: Json) -> Json:
    """An id, also from a filter's condition (`{"eq": …}`, `{"in": […]}`); None if there is none, or several."""
    if isinstance(value, Mapping) and len(value) == 1:
        [(condition, value)] = value.items()
        value = value if condition in ("eq", "=", "in") else None
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    is_id = isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", "*")
    return value if is_id else None


def _has_own_text(item: Mapping[str, Json]) -> bool:
    return has_text({name: value for name, value in item.items() if name in ("memory", "data", "text", "content")})


def _number(text: str) -> Json:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return int(number) if number == number.to_integral_value() and "." not in text else float(number)
