"""Digests of tables, by which two copies are compared, whichever engines they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spectron_migrate.fast_json import canonical


@dataclass(frozen=True, slots=True)
class TableDigest:
    """How many rows a table has, and the SHA-256 of all of them in their order."""

    name: str
    rows: int
    sha256: str


def digest_of(name: str, rows: Iterable[Sequence[Any]]) -> TableDigest:
    """The digest of these rows; equal for equal values. Bytes count by their own digest."""
    hashed, count = hashlib.sha256(), 0
    for row in rows:
        count += 1
        hashed.update(canonical([_value(each) for each in row]) + b"\n")
    return TableDigest(name, count, hashed.hexdigest())


def _value(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes | memoryview) else value
