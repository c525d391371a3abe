"""The error of a state that is in a database which does not answer."""

from __future__ import annotations

from spectron_migrate.errors import Unreachable


class StateUnreachable(Unreachable, OSError):
    """As an OSError, it is what a full disk is to the adapter."""
