"""Handlers of the served calls; each module registers its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spectron_migrate.local.engine import Api, ServerSettings
from spectron_migrate.local.web import Handler


@dataclass(frozen=True, slots=True)
class Served:
    """A served call."""

    handler: Handler
    since: Api
    """The first generation that has it."""


SERVED: dict[tuple[str, str], Served] = {}
"""By method and path below `/api/v1/{context_id}`."""


def serves(method: str, path: str, *, since: Api = "0.0.0") -> Callable[[Handler], Handler]:
    """Register the decorated handler for a method and a path."""

    def register(handler: Handler) -> Handler:
        SERVED[method, path] = Served(handler, since)
        return handler

    return register


def served_by(settings: ServerSettings) -> dict[tuple[str, str], Handler]:
    """The handlers of the server's generation, by method and path."""
    return {call: served.handler for call, served in SERVED.items() if settings.is_at_least(served.since)}
