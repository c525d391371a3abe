"""One HTTP exchange with Spectron, and what is certain about it afterwards.

A write either was answered (`Answer`), or certainly never began (`NotBegun`), or is in doubt
(`InDoubt`). No error class of an HTTP library is read as "not sent": the only proof of that is our own
connector, which knows that no connection for the request ever stood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient

from spectron_migrate.records import Json, format_time

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MAX_MESSAGE = 300
"""Characters of a server's own words that are carried on."""


class NotBegun(Exception):
    """The server did not begin the work: waiting and sending the same bytes is safe."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: seconds the server asked for, if it did."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class InDoubt(Exception):
    """Nobody knows whether the work was done."""

    def __init__(self, reason: str, *, ended: bool = False) -> None:
        """`ended`: an answer was read whole, so the server is no longer at work on it."""
        super().__init__(reason)
        self.reason = reason
        self.ended = ended


class _NotConnected(aiohttp.ClientConnectionError):
    """No connection stood, so not one byte of the request left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    body: Json
    """The parsed JSON, or None where the body is none."""
    raw: bytes
    date: str | None
    """The server's clock (`Date`), in our spelling of times."""
    trace_id: str | None = None
    retry_after_s: float | None = None

    @property
    def message(self) -> str:
        """The server's own words, in either published error form, on one line."""
        if isinstance(self.body, dict):
            for name in ("detail", "message", "title", "error"):
                if isinstance(self.body.get(name), str) and self.body[name]:
                    return _one_line(self.body[name])
        return _one_line(self.raw.decode("utf-8", "replace")) or f"HTTP {self.status} without a body"


class _Connector(aiohttp.TCPConnector):
    """Says for certain when no connection could be made."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise _NotConnected(str(error) or type(error).__name__) from error


class _Client(HttpxAiohttpClient):
    """httpx's API over aiohttp (httpx alone loses most of its rate above 32 in flight), with our connector."""

    def _init_transport(self, *args: Any, **options: Any) -> httpx.AsyncBaseTransport:
        return _with_our_connector(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> httpx.AsyncBaseTransport:
        return _with_our_connector(super()._init_proxy_transport(*args, **options))


def _with_our_connector(transport: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
    assert isinstance(transport, AiohttpTransport)  # noqa: S101 - what _Client's base makes

    def session() -> aiohttp.ClientSession:
        connector = _Connector(limit=transport.limits.max_connections or 0, ssl=transport.ssl_context)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    transport.client = session
    return transport


class Wire:
    """A pool of connections to one host, bound to one key. Redirects are never followed: a key stays with its host."""

    def __init__(self, base_url: str, *, api_key: str, timeout_s: float = 120.0, max_connections: int = 64) -> None:
        """`base_url` ends before the path of an operation; no connection is opened yet."""
        self.base_url = base_url.rstrip("/")
        self.requests = 0
        self.server_now: str | None = None
        """The newest `Date` seen: a lower bound for the server's clock from then on."""
        self._client = _Client(
            headers={"Authorization": f"Bearer {api_key}", "Accept": "application/json"},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 15.0), pool=None),
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            follow_redirects=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """One exchange; raises NotBegun or InDoubt, never an error of a library below."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        self.requests += 1
        try:
            response = await self._client.request(
                method, self.base_url + path, content=content, headers=sent, params=params or None
            )
        except Exception as error:
            # Deliberately every class: garbage status lines escape the transport's own map.
            if isinstance(error.__cause__, _NotConnected):
                raise NotBegun(f"no connection to {self.base_url}: {_one_line(str(error.__cause__))}") from error
            raise InDoubt(f"{type(error).__name__}: {_one_line(str(error))}") from error
        answer = _answer(response)
        if answer.date is not None and answer.date > (self.server_now or ""):
            self.server_now = answer.date
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _answer(response: httpx.Response) -> Answer:
    try:
        body = json.loads(response.content) if response.content else None
    except ValueError:
        body = None
    return Answer(
        status=response.status_code,
        body=body,
        raw=response.content,
        date=_http_date(response.headers.get("date")),
        trace_id=response.headers.get("x-trace-id"),
        retry_after_s=_retry_after(response.headers.get("retry-after"), response.headers.get("date")),
    )


def _http_date(text: str | None) -> str | None:
    if not text:
        return None
    try:
        return format_time(parsedate_to_datetime(text))
    except (ValueError, TypeError):
        return None


def _retry_after(text: str | None, date: str | None) -> float | None:
    """Seconds; RFC 9110 allows a number or a date, which counts from the server's own clock."""
    if not text:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - parsedate_to_datetime(date or "")).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _one_line(text: str) -> str:
    folded = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return folded if len(folded) <= MAX_MESSAGE else folded[: MAX_MESSAGE - 1] + "…"
