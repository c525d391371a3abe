"""Registering scopes. POST /scopes is not idempotent by contract, so an unclear response is settled by a listing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from spectron_migrate.errors import ScopeRefused
from spectron_migrate.records import Selector, parse_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt, Response

JUST_NOW = timedelta(seconds=5)
"""Age, by the server's own clock, up to which a node counts as made by the call that it answers."""


def paths_of(selector: Selector) -> list[str]:
    """The distinct paths of a selector, in order."""
    return list(dict.fromkeys(path for clause in selector for path in clause))


def ancestors(path: str) -> list[str]:
    """The nodes above a path, outermost first; the path itself is not among them."""
    segments = path.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]


async def register(api: SpectronApi, path: str) -> bool:
    """Register a node; True where this very call created it, False where it existed.

    Raises NotBegun or InDoubt where the outcome is unknown, KeyRefused without the grant. What a server answers
    for a node that exists is unpublished, so any other answer is settled by listing the scopes.
    """
    response = await api.register_scope(path)
    if response.status == 201:
        return not _is_older(response)
    if response.is_throttled:
        raise response.as_not_begun()
    if response.status >= 500:
        raise InDoubt(f"{response.status} {response.message}", finished=True)
    if response.status in (401, 403):
        raise api.failure(response, f"registering scope {path} (scope:create)")
    if path in await live_paths(api):
        return False
    raise ScopeRefused(
        f"Spectron did not register scope {path}: {response.status} {response.message}",
        hint="the node may be tombstoned, or a limit of depth or number of nodes is reached",
    )


def _is_older(response: Response) -> bool:
    """Whether the node was there before this call: some servers answer 201 again for a node that exists."""
    created = response.body.get("createdAt") if isinstance(response.body, dict) else None
    if not isinstance(created, str) or response.date is None:
        return False
    try:
        made = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return False
    return parse_time(response.date) - (made if made.tzinfo else made.replace(tzinfo=UTC)) > JUST_NOW


async def ensure(api: SpectronApi, paths: Iterable[str]) -> None:
    """Register the paths that do not exist yet (for applications; a migration keeps its own intents)."""
    present = await live_paths(api)
    for path in paths:
        if path not in present:
            await register(api, path)


async def live_paths(api: SpectronApi) -> set[str]:
    """The paths that are registered and not tombstoned."""
    return {node.path for node in await api.scopes() if not node.tombstoned}
