"""The request that a handler gets, and its answers in the published forms: pages, errors, JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from spectron_migrate.local.auth import Caller
from spectron_migrate.local.bodies import Body
from spectron_migrate.local.engine import Api, Engine
from spectron_migrate.local.errors import ApiError

MAX_BODY = 32 << 20
"""Bytes; larger bodies answer 413."""
MAX_PAGE = 500
EVERY_ROW = 1 << 61
CONTEXT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

T = TypeVar("T")

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ApiCall:
    """An authenticated request on a context."""

    engine: Engine
    caller: Caller
    request: Request
    params: Mapping[str, str]
    """The variable segments of the path."""
    raw: bytes

    @property
    def query(self) -> Mapping[str, str]:
        """Parameters of the query string."""
        return self.request.query_params

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers by name, in any case."""
        return self.request.headers

    @property
    def path(self) -> str:
        """The path of the request."""
        return str(self.request.scope["path"])

    @property
    def trace(self) -> str:
        """The trace id of the answer."""
        return str(self.request.scope["trace"])

    def body(self, *, optional: bool = False) -> Body:
        """The JSON object of the body. Raises ApiError 400."""
        return Body.read(self.raw, optional=optional)

    @property
    def has_pages(self) -> bool:
        """Whether lists have envelopes and cursors, and hits a resource (0.2.1)."""
        return self.engine.settings.is_at_least("0.2.1")

    @property
    def has_labels(self) -> bool:
        """Whether facts show scope, labels and confidence, and entities are bounded (0.3.0)."""
        return self.engine.settings.is_at_least("0.3.0")

    def number(self, name: str, default: int) -> int:
        """A whole number from the query string. Raises ApiError 422, or 400 in all generations but the first."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise ApiError(400 if self.has_pages else 422, f"{name} must be a whole number of at least 0")
        return int(text)

    def limit(self, default: int = 100) -> int:
        """The page size; a larger one is reduced to the maximum, as the published document says."""
        return min(self.number("limit", default), MAX_PAGE)

    def undeclared_400(self, read: Callable[[], T]) -> T:
        """What `read` reads; its 400 becomes 422 where the document declares no 400."""
        try:
            return read()
        except ApiError as error:
            raise ApiError(422, error.message) from error

    def window(self, default: int | None = None) -> PageWindow:
        """The requested part of a list.

        Args:
            default: page size of the first generation without a limit; None: all rows.
        """
        if self.has_pages:
            # `offset` is deprecated there, and still taken.
            return PageWindow(self._cursor() or self.number("offset", 0), self.limit())
        limit = EVERY_ROW if default is None and "limit" not in self.query else self.limit(default or 100)
        return PageWindow(self.number("offset", 0), limit)

    def listed(
        self, name: str, rows: list[Any], *, more: bool, total: Callable[[], int] | None = None, bare: bool = False
    ) -> Response:
        """A list in the form of the generation: an envelope with a cursor, an object with one field, or bare."""
        if not self.has_pages:
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
            raise ApiError(400, "cursor is invalid") from error
        return int(number)


@dataclass(frozen=True, slots=True)
class PageWindow:
    """A part of a list."""

    offset: int
    limit: int

    @property
    def end(self) -> int:
        """Offset of the next part."""
        return self.offset + self.limit


Handler = Callable[[ApiCall], Awaitable[Response]]


def reply(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encoded(value), status, media_type="application/json")


def encoded(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _ENCODER.encode(value).encode()


def no_content() -> Response:
    """An empty answer with status 204."""
    return Response(status_code=204)


def failure(error: ApiError, api: Api, path: str) -> Response:
    """An error answer: `{"message"}`, with problem details (RFC 7807) in 0.2.1."""
    body: dict[str, Any] = {"message": error.message}
    media_type = "application/json"
    if api == "0.2.1":
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
    if error.allow:
        response.headers["allow"] = ", ".join(error.allow)
    return response


async def body_of(request: Request) -> bytes:
    """The whole body. Raises ApiError 413 as soon as it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)
