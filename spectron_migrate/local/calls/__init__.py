"""Handlers of the served calls; each module registers its own."""

from __future__ import annotations

from collections.abc import Callable

from spectron_migrate.local.web import Handler

SERVED: dict[tuple[str, str], Handler] = {}
"""Method and path below `/api/v1/{context_id}` -> handler."""


def serves(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register the decorated handler for a method and a path."""

    def register(handler: Handler) -> Handler:
        SERVED[method, path] = handler
        return handler

    return register
