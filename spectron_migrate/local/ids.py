"""Opaque ids; the server makes all of them."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """A new id with 96 random bits, such as `sess_9f2c…`."""
    return f"{prefix}_{secrets.token_hex(12)}"
