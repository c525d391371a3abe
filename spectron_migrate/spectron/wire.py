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
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from spectron_migrate import __version__
from spectron_migrate.errors import InputError
from spectron_migrate.records import Json, format_time

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

LONGEST_WAIT_S = 900.0
"""However much later a server asks to be asked again: a run that sleeps for a day looks like one that hangs."""
MAX_MESSAGE = 300
"""Characters of a server's own words that are carried on."""


class NotBegun(Exception):
    """The server did not begin the work: waiting and sending the same bytes is safe."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, status: int | None = None) -> None:
        """`status`: of the answer that said so, if there was one; `retry_after_s`: what it asked for, if it did."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.status = status


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
    def too_much(self) -> bool:
        """Whether the server asks for less."""
        return self.status in (429, 503)

    def as_not_begun(self) -> NotBegun:
        """What an answer means that says so to a request which is not under an idempotency key."""
        return NotBegun(f"{self.status} {self.message}", retry_after_s=self.retry_after_s, status=self.status)

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


class Wire:
    """A pool of connections to one host, bound to one key. Redirects are never followed: a key stays with its host.

    aiohttp itself and no other interface over it: those take two to three times the processor time a request,
    and at a thousand requests a second that is what a replay runs out of first.
    """

    def __init__(self, base_url: str, *, api_key: str, timeout_s: float = 120.0, max_connections: int = 64) -> None:
        """`base_url` ends before the path of an operation; no connection is opened yet.

        Raises InputError for a proxy in the environment that no HTTP can go through.
        """
        self.base_url = base_url.rstrip("/")
        self.requests = 0
        self.server_now: str | None = None
        """The newest `Date` seen: a lower bound for the server's clock from then on."""
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": "application/json",
            "User-Agent": f"spectron-migrate/{__version__}",
        }
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
    ) -> Answer:
        """One exchange; raises NotBegun or InDoubt, never an error of a library below."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        self.requests += 1
        url = URL(f"{self.base_url}{path}{'?' + urlencode(params) if params else ''}", encoded=True)
        try:
            async with self._open().request(
                method, url, data=content, headers=sent, allow_redirects=False, proxy=self._proxy
            ) as response:
                answer = _answer(response, await response.read())
        except _NotConnected as error:
            raise NotBegun(f"no connection to {self.base_url}: {_one_line(str(error))}") from error
        except Exception as error:
            # Deliberately every class: what a garbage answer raises is nobody's promise.
            raise InDoubt(f"{type(error).__name__}: {_one_line(str(error))}") from error
        if answer.date is not None and answer.date > (self.server_now or ""):
            self.server_now = answer.date
        return answer

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The pool; made at the first call, because it belongs to the loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=self._timeout,
            )
        return self._session


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this host, if any; netrc and cookies are nobody's business here."""
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


def _answer(response: aiohttp.ClientResponse, raw: bytes) -> Answer:
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    return Answer(
        status=response.status,
        body=body,
        raw=raw,
        date=_http_date(response.headers.get("date")),
        trace_id=response.headers.get("x-trace-id"),
        retry_after_s=_retry_after(response.headers.get("retry-after"), response.headers.get("date")),
    )


@lru_cache(maxsize=16)
def _http_date(text: str | None) -> str | None:
    if not text:
        return None
    try:
        return format_time(parsedate_to_datetime(text))
    except (ValueError, TypeError):
        return None


def _retry_after(text: str | None, date: str | None) -> float | None:
    """Seconds, LONGEST_WAIT_S at most; RFC 9110 allows a number or a date, which counts from the server's own clock."""
    if not text:
        return None
    if re.fullmatch(r"[0-9]+", text.strip()):
        return min(LONGEST_WAIT_S, float(text))
    try:
        asked = (parsedate_to_datetime(text) - parsedate_to_datetime(date or "")).total_seconds()
        return min(LONGEST_WAIT_S, max(0.0, asked))
    except (ValueError, TypeError, OverflowError):
        return None


def _one_line(text: str) -> str:
    folded = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return folded if len(folded) <= MAX_MESSAGE else folded[: MAX_MESSAGE - 1] + "…"
