"""Opaque ids, minted here and never by a client."""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """Such as `sess_9f2c…`: 96 random bits behind a word that says what it is."""
    return f"{prefix}_{secrets.token_hex(12)}"
