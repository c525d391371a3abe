"""Takes single fields out of a row of Mem0.

Pure, and never raises. `rest` is what is left of the row, from which the field is removed. `raw` keeps values as they
were given, if reading them needed an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from spectron_migrate.mem0.formats.unwrap import parsed
from spectron_migrate.mem0.times import expiry, utc_time
from spectron_migrate.records import Json, canonical_json


def with_python_names(rest: dict[str, Json], camel_names: Mapping[str, str]) -> dict[str, Json]:
    """Rename TypeScript's camel-case fields, but only if the Python name is empty. Otherwise they are user metadata."""
    for name, camel in camel_names.items():
        if camel in rest and rest.get(name) is None:
            rest[name] = rest.pop(camel)
    return rest


def take_text(rest: dict[str, Json], names: tuple[str, ...], raw: dict[str, Json]) -> str | None:
    """The value of the first of these fields that holds text.

    A value that is not text is converted to JSON, but only under Mem0's own name (the first). Under other names it is
    the user's metadata.
    """
    first = rest.get(names[0])
    if isinstance(first, str):
        return cast(str, rest.pop(names[0]))
    if names[0] in rest:
        if first is None and names[0] == "data":
            return None
        if first is not None:
            raw[names[0]] = rest.pop(names[0])
            inner = (
                [first[name] for name in names if isinstance(first.get(name), str)] if isinstance(first, dict) else []
            )
            return cast(str, inner[0]) if len(inner) == 1 else _plain_text(first)
    for name in names[1:]:
        value = rest.get(name)
        if isinstance(value, str):
            return cast(str, rest.pop(name))
        if name == "data" and isinstance(value, Mapping) and isinstance(value.get("memory"), str):
            return cast(str, rest.pop(name)["memory"])
    return None


def _plain_text(value: Any) -> str:
    try:
        return canonical_json(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def take_identifier(rest: dict[str, Json], name: str, raw: dict[str, Json]) -> str | None:
    """An id, exactly as it is. Nothing is trimmed or case-folded; a number becomes its decimal digits."""
    value = rest.pop(name, None)
    if value is None or (value.__class__ is str and value):
        return value
    return identifier_of(value, name, raw)


def identifier_of(value: Any, name: str, raw: dict[str, Json]) -> str | None:
    """The id for a value that was already taken; None for a value that names nothing."""
    if value is None:
        return None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str) and value:
        return str(value)
    raw[name] = value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _digits(value)
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else None


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python converts to decimal
        return hex(value)


def take_time(rest: dict[str, Json], name: str, raw: dict[str, Json]) -> str | None:
    """A time in UTC, as `format_time` writes it; None if there is none that can be read."""
    value = rest.pop(name, None)
    if value is None:
        return None
    moment, exact = utc_time(value)
    if not exact:
        raw[name] = value
    return moment


def take_expiry(rest: dict[str, Json], raw: dict[str, Json], now: datetime) -> tuple[str | None, bool]:
    """The date on which the memory expires, and whether it has passed."""
    value = rest.pop("expiration_date")
    if value is None:
        return None, False
    text, exact, passed = expiry(value, now)
    if not exact:
        raw["expiration_date"] = value
    return text, passed


def take_app(rest: dict[str, Json], raw: dict[str, Json]) -> str | None:
    """The app: under `app_id` in items of the Platform, under `app` in OpenMemory's backup."""
    if _is_openmemory(rest) and isinstance(rest.get("app"), str):
        if rest.get("app_id") is not None:
            raw["app_id"] = rest.pop("app_id")
        return cast(str, rest.pop("app")) or None
    return take_identifier(rest, "app_id", raw)


def _is_openmemory(rest: Mapping[str, Json]) -> bool:
    return isinstance(rest.get("state"), str)


def take_categories(rest: dict[str, Json], raw: dict[str, Json]) -> tuple[str, ...]:
    """A list of names. JSON text, names separated by commas, and objects with a name are read as one."""
    given = rest.pop("categories", None)
    value = parsed(given)
    if value is None:
        return ()
    if isinstance(value, str):
        names: list[Any] = [name.strip() for name in value.split(",") if name.strip()]
    elif isinstance(value, list | tuple):
        names = [one.get("name") if isinstance(one, Mapping) else one for one in value]
    else:
        names = [None]
    are_names = all(isinstance(name, str) for name in names)
    if not are_names or isinstance(value, str) or list(value) != names:
        raw["categories"] = given
    return tuple(names) if are_names else ()
