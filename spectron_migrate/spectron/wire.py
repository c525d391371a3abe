"""One HTTP exchange with Spectron, and what is certain about it afterwards.

A request either got a whole response (`Response`), or certainly never reached the server (`NotBegun`), or is in doubt
(`InDoubt`). No error class of an HTTP library counts as "not sent". The only proof of that is our own connector, which
knows that no connection was ever made for the request.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from spectron_migrate import __version__
from spectron_migrate.backoff import retry_after_s
from spectron_migrate.errors import InputError
from spectron_migrate.records import Json, format_time
from spectron_migrate.scrubbing import Scrubber
from spectron_migrate.spectron.traffic import Traffic

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

UNKNOWN_STATUSES = (404, 410)
"""What a server answers about something that it does not know, or no longer knows."""
LONGEST_WAIT_S = 900.0
"""The longest `Retry-After` that is obeyed. A run that sleeps for a day cannot be distinguished from one that hangs."""
_TEXTS = frozenset({"text", "content", "context"})
_BAD_CONTEXT = re.compile(
    r"(?:invalid|malformed|unknown|bad) context\b|context(?: id)? .{0,80}?is (?:invalid|not)", re.I
)
MAX_MESSAGE = 300
"""How many characters of a server's error message are kept."""


class NotBegun(Exception):
    """The server did not start the work: sending the same bytes again later is safe."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, status: int | None = None) -> None:
        """`status` and `retry_after_s` of the response that said so, if there was one."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.status = status


class InDoubt(Exception):
    """It is unknown whether the server did the work."""

    def __init__(self, reason: str, *, finished: bool = False) -> None:
        """`finished`: a whole response was read, so the server is no longer working on the request."""
        super().__init__(reason)
        self.reason = reason
        self.finished = finished


class _NotConnected(aiohttp.ClientConnectionError):
    """No connection was made, so not one byte of the request left."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read to its end."""

    status: int
    body: Json
    """The parsed JSON; None if the body is not JSON."""
    raw: bytes
    date: str | None
    """The server's clock (`Date`), as `format_time` writes it."""
    trace_id: str | None = None
    retry_after_s: float | None = None

    @property
    def is_throttled(self) -> bool:
        """Whether the server is asking for fewer requests."""
        return self.status in (429, 503)

    @property
    def names_bad_context(self) -> bool:
        """Whether a 422 is about the context of the path; any other 422 is about the body."""
        return self.status == 422 and _BAD_CONTEXT.match(self.message) is not None

    def as_not_begun(self) -> NotBegun:
        """As NotBegun, for a throttled request without an idempotency key: it was not started."""
        return NotBegun(f"{self.status} {self.message}", retry_after_s=self.retry_after_s, status=self.status)

    @property
    def message(self) -> str:
        """The server's error message, in either published error format, on one line."""
        if isinstance(self.body, dict):
            for name in ("detail", "message", "title", "error"):
                if isinstance(self.body.get(name), str) and self.body[name]:
                    return _one_line(self.body[name])
        return _one_line(self.raw.decode("utf-8", "replace")) or f"HTTP {self.status} without a body"


class _Connector(aiohttp.TCPConnector):
    """Raises `_NotConnected` if no connection could be made; nothing else raises it."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise _NotConnected(_why_not_connected(error)) from error


def _why_not_connected(error: Exception) -> str:
    """The reason in few words: aiohttp's own words repeat the address, and mention SSL even for HTTP."""
    is_tls = isinstance(error, aiohttp.ClientSSLError)
    if isinstance(error, aiohttp.ClientConnectorError) and not is_tls and error.os_error.strerror:
        code = error.os_error.errno
        why = os.strerror(code) if code is not None and code > 0 else error.os_error.strerror
        return f"{why[:1].lower()}{why[1:]}"
    return str(error) or type(error).__name__


class Wire:
    """A pool of connections to one host with one key. Redirects are never followed: the key stays with its host.

    aiohttp is used directly, because clients built on it take two to three times the CPU time per request, and at a
    thousand requests a second a replay runs out of CPU first.
    """

    def __init__(self, base_url: str, *, api_key: str, timeout_s: float = 120.0, max_connections: int = 64) -> None:
        """`base_url`: everything before the path of an operation. No connection is opened yet.

        Raises InputError if the environment names a proxy that cannot carry HTTP.
        """
        self.base_url = base_url.rstrip("/")
        self.requests = 0
        self.refused = 0
        """How often no connection could be made."""
        self.traffic = Traffic()
        self.server_now: str | None = None
        """The newest `Date` seen, which is a lower bound for the server's clock from then on."""
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": "application/json",
            "User-Agent": f"spectron-migrate/{__version__}",
        }
        self._scrubber = Scrubber(api_key)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 15.0))
        self._max_connections = max_connections
        self._proxy = _proxy_for(self.base_url)
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request and read the whole response; raises NotBegun or InDoubt, never an error of aiohttp."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        self.requests += 1
        url = URL(f"{self.base_url}{path}{'?' + urlencode(params) if params else ''}", encoded=True)
        began, outcome = self.traffic.begin(), "in doubt"
        try:
            async with self._open().request(
                method, url, data=content, headers=sent, allow_redirects=False, proxy=self._proxy
            ) as response:
                answer = _read(response, await response.read(), self._scrubber)
            outcome = str(answer.status)
        except _NotConnected as error:
            self.refused += 1
            outcome = "not begun"
            raise NotBegun(f"no connection to {self.base_url}: {_one_line(str(error))}") from error
        except Exception as error:
            # Deliberately every class, because aiohttp does not document what a malformed response raises.
            reason = f"{type(error).__name__}: {_one_line(self._scrubber.text(str(error)))}"
            raise InDoubt(reason) from (None if self._scrubber.is_in(error) else error)
        finally:
            self.traffic.end(began, path, outcome)
        if answer.date is not None and answer.date > (self.server_now or ""):
            self.server_now = answer.date
        return answer

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The connection pool. It is made at the first call, because it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=self._timeout,
            )
        return self._session


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this host, if any."""
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"the environment names a {urlsplit(proxy).scheme} proxy for {parts.hostname}, which cannot be used",
            hint="name an http proxy in HTTPS_PROXY, or the host in NO_PROXY",
        )
    return proxy


def _read(response: aiohttp.ClientResponse, raw: bytes, scrubber: Scrubber) -> Response:
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    scrubbed = scrubber.raw(raw, is_error=response.status >= 300)
    if response.status >= 300:
        body = scrubber.json(body, keep=frozenset())
    elif scrubbed != raw:
        body = scrubber.json(body, keep=_TEXTS)
    trace_id = response.headers.get("x-trace-id")
    asked_s = retry_after_s(response.headers.get("retry-after"), response.headers.get("date"))
    return Response(
        status=response.status,
        body=body,
        raw=scrubbed,
        date=_http_date(response.headers.get("date")),
        trace_id=None if trace_id is None else scrubber.text(trace_id),
        retry_after_s=None if asked_s is None else min(LONGEST_WAIT_S, asked_s),
    )


@lru_cache(maxsize=16)
def _http_date(text: str | None) -> str | None:
    if not text:
        return None
    try:
        return format_time(parsedate_to_datetime(text))
    except (ValueError, TypeError):
        return None


def _one_line(text: str) -> str:
    folded = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return folded if len(folded) <= MAX_MESSAGE else folded[: MAX_MESSAGE - 1] + "…"
