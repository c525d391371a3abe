"""The application over one context: the served calls, 501 for the rest of the document, the hourly sweep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from spectron_migrate.local import upkeep
from spectron_migrate.local.calls import SERVED, access, facts, memory, scopes
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.failures import ApiError
from spectron_migrate.local.web import Call, Guard, Handler, endpoint

__all__ = ["build"]

_REGISTERED = (access, facts, memory, scopes)
"""Importing them is what registers their calls."""

PREFIX = "/api/v1/{context_id}"
BUSY = ("/facts", "/facts/batch", "/query")
SWEEP_SECONDS = 3600

NOT_SERVED = """
GET /audit
POST /chat
POST /consolidate
GET /documents
POST /documents
GET /documents/keywords
POST /documents/keywords/search
GET /documents/keywords/{normalised}
POST /documents/query
POST /documents/recompute-links
GET /documents/{id}
PUT /documents/{id}
DELETE /documents/{id}
GET /documents/{id}/chunks
GET /documents/{id}/keywords
GET /documents/{id}/raw
POST /elaborate
GET /inspect
POST /lifecycle/decay
POST /reflect
POST /scope-grants
GET /traces
GET /traces/stats
GET /traces/{trace_id}
"""
"""What the document has and a migration does not use."""

NOT_SERVED_LATER = """
GET /actions
GET /attributes
GET /relations
"""
"""What the later generation has besides."""


def build(engine: Engine) -> ASGIApp:
    """The application; it closes the store when it ends."""
    absent = NOT_SERVED + (NOT_SERVED_LATER if engine.settings.api != "0.0.0" else "")
    table = [(method, path, handler) for (method, path), handler in SERVED.items()]
    for line in absent.split("\n"):
        method, _, path = line.partition(" ")
        if path:
            table.append((method, path, _not_served))
    routes = [Route("/api/v1/health", _health, methods=["GET"])]
    routes += [_route(engine, path, methods) for path, methods in _by_path(table)]

    @asynccontextmanager
    async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(engine))
        try:
            yield
        finally:
            sweeping.cancel()
            engine.store.close()

    return Guard(Router(routes=routes, lifespan=lifespan), engine)


def _route(engine: Engine, path: str, methods: dict[str, Handler]) -> Route:
    """One path with all its methods, so that another method answers 405 and not 404."""
    answering: dict[str, Callable[[Request], Awaitable[Response]]] = {
        method: endpoint(engine, handler) for method, handler in methods.items()
    }

    async def dispatch(request: Request) -> Response:
        return await answering["GET" if request.method == "HEAD" else request.method](request)

    return Route(PREFIX + path, dispatch, methods=list(methods))


def _by_path(table: Iterable[tuple[str, str, Handler]]) -> list[tuple[str, dict[str, Handler]]]:
    """Paths with their methods: the busiest first, then fixed segments before variable ones, so that those win."""
    paths: dict[str, dict[str, Handler]] = {}
    for method, path, handler in table:
        paths.setdefault(path, {})[method] = handler
    return sorted(paths.items(), key=lambda entry: (entry[0] not in BUSY, entry[0].replace("{", "~")))


async def _sweep(engine: Engine) -> None:
    """Expire what is due: at the start, and then each hour."""
    while True:
        upkeep.expire(engine)
        await asyncio.sleep(SWEEP_SECONDS)


async def _health(request: Request) -> Response:
    return Response(status_code=200)


async def _not_served(call: Call) -> Response:
    raise ApiError(501, "the local Spectron does not serve this call")
