"""One request: whose it is, what is in it, and every way it can end, in the published form."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.bodies import Body
from spectron_migrate.local.engine import Api, Engine
from spectron_migrate.local.failures import ApiError, unauthorised
from spectron_migrate.local.ids import new_id

MAX_BODY = 32 << 20
"""Bytes; more answers 413."""
MAX_PAGE = 500
EVERY_ROW = 1 << 61
CONTEXT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_SLASH = "\0"
"""Stands for an escaped slash while a path is taken apart: it belongs to a name and parts nothing."""

log = logging.getLogger("spectron_migrate.local")


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request on a context."""

    engine: Engine
    caller: Caller
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    path: str
    raw: bytes
    trace: str

    def body(self, *, optional: bool = False) -> Body:
        """The JSON object that was sent. Raises ApiError 400."""
        return Body.read(self.raw, optional=optional)

    @property
    def later(self) -> bool:
        """Whether the answer is of the later generation."""
        return self.engine.settings.api != "0.0.0"

    def number(self, name: str, default: int) -> int:
        """A whole number of the query string. Raises ApiError 422, or 400 in the later generation."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise ApiError(400 if self.later else 422, f"{name} must be a whole number of at least 0")
        return int(text)

    def limit(self, default: int = 100) -> int:
        """How many rows a page may have; more than is allowed is cut down, as the document says."""
        return min(self.number("limit", default), MAX_PAGE)

    def window(self, default: int | None = None) -> Window:
        """Which rows of a list are asked for.

        Args:
            default: how many the first generation gives without a limit; None gives all.
        """
        if self.later:
            return Window(self._cursor(), self.limit())
        limit = EVERY_ROW if default is None and "limit" not in self.query else self.limit(default or 100)
        return Window(self.number("offset", 0), limit)

    def listed(
        self, name: str, rows: list[Any], *, more: bool, total: Callable[[], int] | None = None, bare: bool = False
    ) -> Response:
        """A list as the generation has it: an envelope with a cursor, or under its name, or bare."""
        if not self.later:
            return reply(rows if bare else {name: rows})
        window = self.window()
        page: dict[str, Any] = {"hasMore": more}
        if more:
            page["nextCursor"] = base64.urlsafe_b64encode(b"after:%d" % window.end).decode()
        if total is not None and self.query.get("count") == "true":
            page["totalSize"] = total()
        return reply({name: rows, "page": page})

    def _cursor(self) -> int:
        if "cursor" not in self.query:
            return 0
        try:
            word, _, number = base64.urlsafe_b64decode(self.query["cursor"]).decode("ascii").partition(":")
            if word != "after" or not re.fullmatch(r"\d{1,18}", number):
                raise ValueError(word)
        except ValueError as error:
            raise ApiError(400, "cursor is not one that was given out") from error
        return int(number)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a list."""

    offset: int
    limit: int

    @property
    def end(self) -> int:
        """Where the next stretch begins."""
        return self.offset + self.limit


Handler = Callable[[Call], Awaitable[Response]]


def reply(value: Any, status: int = 200) -> Response:
    """JSON."""
    return Response(encoded(value), status, media_type="application/json")


def encoded(value: Any) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def no_content() -> Response:
    """204."""
    return Response(status_code=204)


def failure(error: ApiError, api: Api, path: str) -> Response:
    """`{"message"}`; the later generation answers problem details (RFC 7807) beside it."""
    body: dict[str, Any] = {"message": error.message}
    media_type = "application/json"
    if api != "0.0.0":
        media_type = "application/problem+json"
        body |= {
            "type": "about:blank",
            "title": error.title,
            "status": error.status,
            "detail": error.message,
            "instance": path,
        }
        if error.status in (429, 503):
            body["retry_after"] = error.retry_after
    response = Response(encoded(body), error.status, media_type=media_type)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


def endpoint(engine: Engine, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler behind authentication."""

    async def answer(request: Request) -> Response:
        caller = _caller(engine, request)
        raw = await _body(request)
        call = Call(
            engine,
            caller,
            {name: value.replace(_SLASH, "/") for name, value in request.path_params.items()},
            request.query_params,
            request.headers,
            request.url.path,
            raw,
            request.scope["trace"],
        )
        return await handler(call)

    return answer


class Guard:
    """Outermost: gives each request its trace id, and each failure its form."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        """Wrap the router."""
        self._app = app
        self._api = engine.settings.api
        self._most = engine.settings.max_in_flight
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if b"%2f" in scope["raw_path"].lower():
            scope = {**scope, "path": unquote(re.sub("%2f", _SLASH, scope["raw_path"].decode("ascii"), flags=re.I))}
        scope["app"] = self  # the router then raises where nothing fits, and the error gets our form
        trace = scope["trace"] = new_id("req")
        began = False

        async def traced(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message["headers"], (b"x-trace-id", trace.encode())]
            await send(message)

        self._in_flight += 1
        try:
            if self._in_flight > self._most and self._api != "0.0.0":
                raise ApiError(503, "too many requests in flight", retry_after=1)
            await self._app(scope, receive, traced)
        except ClientDisconnect:
            return
        except Exception as error:
            if began:
                raise
            await failure(_as_api_error(error, trace), self._api, scope["path"])(scope, receive, traced)
        finally:
            self._in_flight -= 1


def _as_api_error(error: Exception, trace: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, "no such route" if error.status_code == 404 else error.detail)
    log.error("request %s failed", trace, exc_info=error)
    return ApiError(500, "unknown error")


def _caller(engine: Engine, request: Request) -> Caller:
    context = request.path_params["context_id"]
    if not CONTEXT_ID.fullmatch(context):
        raise ApiError(422, "invalid context id")
    if context != engine.settings.context:
        raise unauthorised()
    return engine.keyring.caller(request.headers, engine.now())


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)
