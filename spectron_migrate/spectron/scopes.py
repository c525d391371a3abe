"""Registering scopes: listed first, then made, because registering is not idempotent by contract."""

from __future__ import annotations

from collections.abc import Iterable

from spectron_migrate.errors import KeyRefused, ScopeRefused
from spectron_migrate.records import Selector
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt


def paths_of(selector: Selector) -> list[str]:
    """The distinct paths of a selector, in order."""
    return list(dict.fromkeys(path for clause in selector for path in clause))


def ancestors(path: str) -> list[str]:
    """The nodes above a path, outermost first; the path itself is not among them."""
    segments = path.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]


async def register(api: SpectronApi, path: str) -> bool:
    """Make the node exist; True where this very call created it.

    Raises NotBegun or InDoubt where the answer is not known, KeyRefused without the grant. What a server
    answers for a node that exists is unpublished, so any other answer is settled by listing again.
    """
    answer = await api.register_scope(path)
    if answer.status == 201:
        return True
    if answer.too_much:
        raise answer.as_not_begun()
    if answer.status >= 500:
        raise InDoubt(f"{answer.status} {answer.message}", ended=True)
    if answer.status == 401:
        raise KeyRefused(f"Spectron refused the key: {answer.status} {answer.message}")
    if answer.status == 403:
        raise ScopeRefused(f"the key may not register scope {path}: {answer.status} {answer.message}", hint=_GRANT)
    if path in await live_paths(api):
        return False
    raise ScopeRefused(
        f"Spectron did not register scope {path}: {answer.status} {answer.message}",
        hint="a tombstoned node, a depth limit or a node budget can be the reason",
    )


async def ensure(api: SpectronApi, paths: Iterable[str]) -> None:
    """Register whichever paths are not there yet (for applications; a migration keeps its own intents)."""
    present = await live_paths(api)
    for path in paths:
        if path not in present:
            await register(api, path)


async def live_paths(api: SpectronApi) -> set[str]:
    """The paths that are registered and not tombstoned."""
    return {node.path for node in await api.scopes() if not node.tombstoned}


_GRANT = "grant the key scope:create there, or have somebody register the scope"
