"""Ids to scope segments: pure, total, and never two ids on one segment."""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal

LONGEST = 64
ESCAPED = "x--"
HASHED = "x---h"
"""No escape begins so: after `x--` comes a kept character, or `-` and a hexadecimal digit."""

_LEGAL = re.compile(r"[a-z0-9][a-z0-9._-]*")
_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._")
_SPELLED = tuple(chr(byte) if byte in _KEPT else f"-{byte:02x}" for byte in range(256))


def is_plain(text: str) -> bool:
    """Whether a text is a legal segment that stands for itself, and so for no other text."""
    return len(text) <= LONGEST and _LEGAL.fullmatch(text) is not None and not text.startswith(ESCAPED)


def segment(value: str) -> str:
    """The scope segment of an id.

    A legal segment (`[a-z0-9][a-z0-9._-]*`, at most 64 long) that does not begin with `x--` stays. Every
    other id becomes `x--` and its UTF-8 bytes, `[a-z0-9._]` kept and any other byte as `-` and two
    hexadecimal digits; where that is longer than 64, `x---h` and the first 32 digits of its SHA-256.
    Nothing is normalised or trimmed: what Mem0 told apart stays apart. Raises nothing.
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
    """A scalar of a memory as the text that rules and templates see; None for what has no single text.

    A number is its decimal string, a truth value `true` or `false`.
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
