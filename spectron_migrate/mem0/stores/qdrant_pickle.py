"""The pickles inside an embedded Qdrant's file, read without running anything of theirs.

Qdrant's own client unpickles freely, so opening a stranger's folder with it runs the stranger's code. Here
the classes a point is made of become inert stand-ins, plain values of the standard library are let through,
and any other class refuses the whole store by name.
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
"""How every point with a UUID begins: from the first byte to the opened list of its vector."""

_FRAME_AT = 2
_FRAME_SIZE = 9
_FLOAT, _FLOAT_SIZE = b"G", 9
_BATCH_OF_FLOATS = 1000


class ForeignClass(InputError):
    """A pickle names a class that has no business in a point."""


class Unreadable(ValueError):
    """A pickle is cut off or is not a point."""


class _Point:
    """Stands in for a class of the Qdrant client: it keeps the state it is given and does nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == _POINT_MODULE and name in _POINT_CLASSES:
            return _Point
        known = _VALUES.get((module, name))
        if known is None:
            raise ForeignClass(
                f"a stored point names the class {module}.{name}, which no memory is made of",
                hint="the file may be hostile; it was not opened any further",
            )
        return known


def read_point(blob: bytes) -> tuple[Any, dict[str, Any]]:
    """Id and payload of a stored point; the vector is dropped.

    Raises ForeignClass where the pickle names a class it should not, Unreadable where it is no point.
    """
    point = _load(_without_vector(blob))
    state = point.state if isinstance(point, _Point) else None
    fields = state.get("__dict__") if isinstance(state, dict) else None
    if not isinstance(fields, dict) or "id" not in fields:
        raise Unreadable("not a point")
    payload = fields.get("payload")
    return fields["id"], payload if isinstance(payload, dict) else {}


def read_key(pickled: bytes) -> Any:
    """A point's id as it stands in the key column, which holds a pickle of its own."""
    return _load(pickled)


def _without_vector(blob: bytes) -> bytes:
    """The same pickle with its vector emptied, which is most of its bytes and most of the time to read it.

    Pickles that do not begin exactly as expected come back as they are: this saves time, it decides nothing.
    The floats of a list stand in batches `( G.. G.. … e`, each float one opcode of nine bytes that leaves no
    trace in the memo, so that a batch can go without a change to what follows.
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
    except ForeignClass:
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error
