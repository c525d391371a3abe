"""Reads the pickles in an embedded Qdrant's file without running code from them.

Qdrant's own client unpickles anything, so a malicious folder can run code in it. Here the classes of a point are
replaced by inert ones, plain values of the standard library are allowed, and any other class raises UnexpectedClass.
"""

from __future__ import annotations

import datetime
import decimal
import io
import pickle
import re
import uuid
from typing import Any

from spectron_migrate.errors import InputError

_POINT_MODULE = "qdrant_client.http.models.models"
_POINT_CLASSES = frozenset({"PointStruct", "SparseVector"})
_VALUES: dict[tuple[str, str], Any] = {
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "timezone"): datetime.timezone,
    ("datetime", "timedelta"): datetime.timedelta,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
}


_HEAD = re.compile(
    rb"\x80\x04\x95(?P<frame>.{8})"
    rb"\x8c\x20qdrant_client\.http\.models\.models\x94\x8c\x0bPointStruct\x94\x93\x94\)\x81\x94"
    rb"\}\x94\(\x8c\x08__dict__\x94\}\x94\(\x8c\x02id\x94\x8c\x24[0-9a-f-]{36}\x94"
    rb"\x8c\x06vector\x94(?:\}\x94\(?\x8c\0\x94)?\]\x94",
    re.DOTALL,
)
"""The start of every point with a UUID: from the first byte to the start of the list that is its vector."""

_FRAME_AT = 2
_FRAME_SIZE = 9
_FLOAT, _FLOAT_SIZE = b"G", 9
_BATCH_OF_FLOATS = 1000
_SMALL = 2048
"""Up to this many bytes, reading the vector of a point takes no longer than leaving it out."""


UUID_TEXT = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A UUID in its canonical spelling."""


class UnexpectedClass(InputError):
    """A pickle names a class that is not part of a point."""


class UnreadablePoint(ValueError):
    """A pickle is truncated or is not a point."""


class _Point:
    """Replaces a class of the Qdrant client. Its attributes are the entries of the pickled state."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == _POINT_MODULE and name in _POINT_CLASSES:
            return _Point
        known = _VALUES.get((module, name))
        if known is None:
            raise UnexpectedClass(
                f"a stored point names the class {module}.{name}, which is not part of a memory",
                hint="the file may be malicious; nothing in it was executed",
            )
        return known


def read_point(blob: bytes) -> tuple[Any, dict[str, Any]]:
    """Id and payload of a stored point, without its vector.

    Raises UnexpectedClass for a class that is not part of a point, UnreadablePoint if it is not a point.
    """
    point = _load(_without_vector(blob) if len(blob) > _SMALL else blob)
    fields = point.__dict__.get("__dict__") if point.__class__ is _Point else None
    if fields.__class__ is not dict or "id" not in fields:
        raise UnreadablePoint("not a point")
    payload = fields.get("payload")
    return fields["id"], payload if payload.__class__ is dict else {}


def read_key(pickled: bytes) -> Any:
    """The id of a point from the key column, which holds a pickle of its own."""
    return _load(pickled)


def _without_vector(blob: bytes) -> bytes:
    """The same pickle with an empty vector, because the vector is most of its bytes and most of the time to read it.

    This is an optimisation only: a pickle that does not begin exactly as expected is returned unchanged. The floats of
    a list are in batches `( G.. G.. … e`. Each float is one opcode of nine bytes that leaves no trace in the memo, so
    a batch can be removed without a change to what follows.
    """
    head = _HEAD.match(blob)
    if head is None or int.from_bytes(head["frame"], "little") != len(blob) - _FRAME_AT - _FRAME_SIZE:
        return blob
    end = head.end()
    while blob[end : end + 1] == b"(":
        opcodes = blob[end + 1 : end + 1 + _FLOAT_SIZE * _BATCH_OF_FLOATS : _FLOAT_SIZE]
        floats = len(opcodes) - len(opcodes.lstrip(_FLOAT))
        after = end + 1 + floats * _FLOAT_SIZE
        if blob[after : after + 1] != b"e":
            return blob
        end = after + 1
    rest = blob[_FRAME_AT + _FRAME_SIZE : head.end()] + blob[end:]
    return b"".join((blob[: _FRAME_AT + 1], len(rest).to_bytes(8, "little"), rest))


def _load(blob: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(blob)).load()
    except UnexpectedClass:
        raise
    except Exception as error:  # a broken pickle can raise nearly any exception
        raise UnreadablePoint(f"{type(error).__name__}: {error}") from error


def canonical_point_id(point_id: Any) -> Any:
    """A UUID in its canonical lower-case form, which all copies of a point share; another id as it is."""
    if isinstance(point_id, str):
        if UUID_TEXT.fullmatch(point_id):
            return point_id  # the common case
        try:
            return str(uuid.UUID(point_id)) if len(point_id) >= 32 else point_id
        except ValueError:
            return point_id
    return str(point_id) if isinstance(point_id, uuid.UUID) else point_id
