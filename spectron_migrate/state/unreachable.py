"""The error for a state whose database does not answer."""

from __future__ import annotations

from spectron_migrate.errors import Unreachable


class StateUnreachable(Unreachable, OSError):
    """It is an OSError, so that the adapter treats it like a full disk."""
