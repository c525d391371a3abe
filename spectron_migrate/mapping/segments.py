"""Turns ids into scope segments. Pure and total; two ids never have the same segment."""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from functools import lru_cache

LONGEST = 64
ESCAPED = "x--"
HASHED = "x---h"
"""The start of a hashed segment.

No other escape begins like this: after `x--` comes a kept character, or `-` and a hexadecimal digit.
"""
MARKER = "x---m"
"""How the scope of a run's marker begins. For the same reason, no id becomes such a segment."""

_LEGAL = re.compile(r"[a-z0-9][a-z0-9._-]*")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._")
_SPELLED = tuple(chr(byte) if byte in _KEPT else f"-{byte:02x}" for byte in range(256))


def is_plain(text: str) -> bool:
    """Whether a text is its own segment, and therefore the segment of no other text."""
    return len(text) <= LONGEST and _LEGAL.fullmatch(text) is not None and not text.startswith(ESCAPED)


@lru_cache(maxsize=10_000)
def segment(value: str) -> str:
    """The scope segment of an id. Raises nothing.

    A legal segment (`[a-z0-9][a-z0-9._-]*`, at most 64 characters) that does not begin with `x--` is kept. Every
    other id becomes `x--` and its UTF-8 bytes: `[a-z0-9._]` as they are, any other byte as `-` and two hexadecimal
    digits. If that is longer than 64, the segment is `x---h` and the first 32 digits of the SHA-256 of the id.
    Nothing is normalised or trimmed: ids that are different in Mem0 have different segments.

    >>> segment("alice"), segment("alice@example.com")
    ('alice', 'x--alice-40example.com')
    """
    if is_plain(value):
        return value
    data = value.encode("utf-8", "surrogatepass")
    if len(data) <= LONGEST:
        escaped = ESCAPED + "".join(_SPELLED[byte] for byte in data)
        if len(escaped) <= LONGEST:
            return escaped
    return HASHED + hashlib.sha256(data).hexdigest()[:32]


def scalar_text(value: object) -> str | None:
    """A value of a memory, as the text that conditions and templates use; None for a list, an object or nothing.

    A number is its decimal string, a boolean `true` or `false`.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return format(Decimal(value), "f")
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return None
