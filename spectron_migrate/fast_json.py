"""JSON of rows, by orjson if the result is the same as that of `json`, which takes several times as long.

The two differ for fractions, whole numbers of more than 64 bits, half characters, and types that JSON does not have. A
value with any of these goes to `json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson

from spectron_migrate.records import Json

_ATOMS = frozenset({str, int, bool, type(None)})
_SORTED_LINE = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(text: str | bytes) -> Json:
    """The value of a JSON text; raises ValueError as `json.loads` does."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return json.loads(text)
    try:
        is_alike = _is_alike(value)
    except RecursionError:
        is_alike = False
    return value if is_alike else json.loads(text)  # a fraction may be a whole number of many digits


def texts_in(text: str | bytes, names: Sequence[str]) -> dict[str, str]:
    """The texts that an object has under these names, without empty ones. Both libraries read them in the same way."""
    try:
        value = orjson.loads(text)
    except ValueError:
        value = json.loads(text)
    return {name: found for name in names if (found := value.get(name))}


def canonical(value: Json) -> bytes:
    """The same text for equal values: keys sorted, no spaces, no escapes for non-ASCII characters.

    Raises TypeError or ValueError for a value that JSON cannot hold.
    """
    if _is_alike(value):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            pass  # a half character, a large number, or a key that is no text
    return _CANONICAL.encode(value).encode()


def canonical_line(row: dict[str, Json], *nested: Json) -> bytes:
    """The line with `canonical` of a row.

    Only the `nested` values may be other than texts, whole numbers and nothing. It is fastest for a row with sorted
    names.
    """
    for value in nested:
        if value and not _is_alike(value):
            break
    else:
        try:
            return orjson.dumps(row, option=_SORTED_LINE)
        except TypeError:
            pass  # see `canonical`
    return _CANONICAL.encode(row).encode() + b"\n"


def _is_alike(value: Any) -> bool:
    """Whether both libraries write the value in the same way."""
    kind = value.__class__
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _ATOMS
    for inner in value:  # noqa: SIM110 - a generator costs more than the comparison
        if inner.__class__ not in _ATOMS and not _is_alike(inner):
            return False
    return True
