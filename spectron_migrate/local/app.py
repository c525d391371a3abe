"""The ASGI application of one context: served calls, 501 for the other published calls, hourly maintenance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from email.utils import formatdate
from typing import TypeVar
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from spectron_migrate.local import maintenance
from spectron_migrate.local.auth import Caller
from spectron_migrate.local.calls import access, entities, facts, memory, scopes, served_by
from spectron_migrate.local.engine import Engine
from spectron_migrate.local.errors import ApiError, not_found, unauthorised
from spectron_migrate.local.ids import new_id
from spectron_migrate.local.web import CONTEXT_ID, ApiCall, Handler, body_of, failure

_REGISTERED = (access, entities, facts, memory, scopes)
"""Modules that register their calls when they are imported."""

PREFIX = ("", "api", "v1")
HEALTH = (*PREFIX, "health")
MAINTENANCE_SECONDS = 3600

Methods = dict[str, Handler]
Answer = TypeVar("Answer")

log = logging.getLogger("spectron_migrate.local")

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
"""Published calls that a migration does not use."""

NOT_SERVED_SINCE_030 = """
GET /entities/search
GET /entities/top
GET /entities/{entity_type}/{entity_name}/neighbourhood
POST /lookup
POST /uncertainty/{uncertainty_id}/resolve
"""
"""Further calls of 0.3.0."""


def build(engine: Engine) -> ASGIApp:
    """The application; it closes the store at shutdown."""
    not_served = NOT_SERVED + (NOT_SERVED_SINCE_030 if engine.settings.is_at_least("0.3.0") else "")
    table = served_by(engine.settings)
    for line in not_served.split("\n"):
        method, _, path = line.partition(" ")
        if path:
            table[method, path] = _not_served
    return Application(engine, Routes(table))


class Routes:
    """Handlers by path; a fixed path takes precedence over one with variable segments."""

    def __init__(self, table: Mapping[tuple[str, str], Handler]) -> None:
        """`table`: (method, path) -> handler."""
        self._fixed: dict[tuple[str, ...], Methods] = {}
        self._variable: dict[tuple[str, ...], Methods] = {}
        for (method, path), handler in table.items():
            segments = tuple(path.removeprefix("/").split("/"))
            paths = self._variable if "{" in path else self._fixed
            paths.setdefault(segments, {})[method] = handler

    def find(self, segments: tuple[str, ...]) -> tuple[Methods, dict[str, str]]:
        """Handlers by method, and the values of the variable segments. Raises ApiError 404."""
        methods = self._fixed.get(segments)
        if methods is not None:
            return methods, {}
        for template, methods in self._variable.items():
            if len(template) == len(segments) and all(
                given if part.startswith("{") else part == given for part, given in zip(template, segments, strict=True)
            ):
                named = zip(template, segments, strict=True)
                return methods, {part[1:-1]: given for part, given in named if part.startswith("{")}
        raise not_found("no such route")


class Application:
    """One context over HTTP: adds a trace id to every answer and turns errors into their published form."""

    def __init__(self, engine: Engine, routes: Routes) -> None:
        self._engine = engine
        self._routes = routes
        self._in_flight = 0
        self._dated = (0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or handle startup and shutdown."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        trace = scope["trace"] = new_id("req")
        self._in_flight += 1
        try:
            response = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, ApiError):
                log.error("request %s failed", trace, exc_info=error)
                error = ApiError(500, "unknown error")
            response = failure(error, self._engine.settings.api, scope["path"])
        finally:
            self._in_flight -= 1
        response.raw_headers += ((b"x-trace-id", trace.encode()), (b"date", self._date()))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        settings = self._engine.settings
        if self._in_flight > settings.max_in_flight and settings.is_at_least("0.2.1"):
            raise ApiError(503, "too many requests in flight", retry_after=1)
        # Segments are unescaped after splitting: an escaped slash is part of a name.
        segments = tuple(unquote(part) for part in request.scope["raw_path"].decode("latin-1").split("/"))
        if segments == HEALTH:
            return await _by_method({"GET": _health}, request.method)(request)
        if segments[:3] != PREFIX or len(segments) < 5:
            raise not_found("no such route")
        methods, params = self._routes.find(segments[4:])
        handler = _by_method(methods, request.method)
        caller = self._caller(segments[3], request)
        return await handler(ApiCall(self._engine, caller, request, params, await body_of(request)))

    def _date(self) -> bytes:
        """The engine's time as an HTTP date; formatted once a second."""
        second = int(self._engine.clock().timestamp())
        if second != self._dated[0]:
            self._dated = (second, formatdate(second, usegmt=True).encode())
        return self._dated[1]

    def _caller(self, context: str, request: Request) -> Caller:
        if not CONTEXT_ID.fullmatch(context):
            raise ApiError(422, "invalid context id")
        if context != self._engine.settings.context:
            raise unauthorised()
        return self._engine.keyring.caller(request.headers, self._engine.now())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        maintenance_task = asyncio.create_task(_maintain(self._engine))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        maintenance_task.cancel()
        self._engine.store.close()
        await send({"type": "lifespan.shutdown.complete"})


def _by_method(methods: Mapping[str, Answer], method: str) -> Answer:
    """The handler of a method; HEAD uses that of GET, and the server omits the body. Raises ApiError 405."""
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        raise ApiError(405, "this path has no such method", allow=tuple(methods))
    return handler


async def _maintain(engine: Engine) -> None:
    """Expire facts and drop old idempotency keys, at the start and then every hour."""
    while True:
        maintenance.expire(engine)
        engine.idempotency.drop_expired(engine.clock())
        await asyncio.sleep(MAINTENANCE_SECONDS)


async def _health(request: Request) -> Response:
    return Response(status_code=200)


async def _not_served(call: ApiCall) -> Response:
    raise ApiError(501, "the local Spectron does not serve this call")
