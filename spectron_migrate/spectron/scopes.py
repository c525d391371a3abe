"""Registering scopes. POST /scopes is not idempotent by contract, so an unclear response is settled by a listing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from spectron_migrate.errors import ScopeRefused
from spectron_migrate.records import Selector, parse_time
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt, Response


def paths_of(selector: Selector) -> list[str]:
    """The distinct paths of a selector, in order."""
    return list(dict.fromkeys(path for clause in selector for path in clause))


def ancestors(path: str) -> list[str]:
    """The nodes above a path, outermost first; the path itself is not among them."""
    segments = path.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]


async def register(api: SpectronApi, path: str) -> bool:
    """Register a node.

    True if this very call certainly created it, False if it existed or may have existed. Raises NotBegun or InDoubt if
    the outcome is unknown, KeyRefused without the grant. It is not documented what a server answers for a node that
    exists, so any other answer is settled by listing the scopes.
    """
    before = api.wire.server_now
    response = await api.register_scope(path)
    if response.status == 201:
        return _is_new(response, since=before)
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


def _is_new(response: Response, *, since: str | None) -> bool:
    """Whether the node is no older than the last answer before this call. Some servers answer 201 for one that exists.

    Both times are the server's. A server that does not say when a node was made does not show that we made it.
    """
    created = response.body.get("createdAt") if isinstance(response.body, dict) else None
    if not isinstance(created, str) or since is None:
        return False
    try:
        made = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return False
    return (made if made.tzinfo else made.replace(tzinfo=UTC)) >= parse_time(since)


async def listed_paths(api: SpectronApi) -> list[str]:
    """All scopes, tombstoned ones included; none if the key may not list them."""
    try:
        return [node.path for node in await api.scopes()]
    except ScopeRefused:
        return []


async def ensure(api: SpectronApi, paths: Iterable[str]) -> None:
    """Register the paths that do not exist yet (for applications; a migration keeps its own intents)."""
    present = await live_paths(api)
    for path in paths:
        if path not in present:
            await register(api, path)


async def live_paths(api: SpectronApi) -> set[str]:
    """The paths that are registered and not tombstoned."""
    return {node.path for node in await api.scopes() if not node.tombstoned}
