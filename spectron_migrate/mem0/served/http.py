"""How a Mem0 that is served is asked: patiently, without a redirect, and never with the key in a message."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import InputError, KeyRefused, Unreachable
from spectron_migrate.mem0.stores.oss_config import without_credentials
from spectron_migrate.records import Json

_TRIES = 7
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_PATIENCE = 900.0
"""Seconds that one request may wait for a server that asks for patience (429, 503 with Retry-After)."""

_AGAIN = frozenset({408, 425, 500, 502, 503, 504})
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)


class Rejected(Unreachable):
    """The server understood the request and will not do it; asking again changes nothing."""

    def __init__(self, message: str, status: int) -> None:
        """`status` is the HTTP status: 400, 404, 422 and the like."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: what it says, and the server's clock where it told it."""

    value: Json
    date: datetime | None


class Http:
    """JSON over HTTP against one host; safe to share between threads."""

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, sleep: Callable[[float], object] | None = None
    ) -> None:
        """`headers` carry the key, if there is one; raises InputError for an address that would bare it.

        `sleep` is how to wait; without it, until the time is over or `close` is called.
        """
        self.base_url = checked_url(base_url, with_key=bool(headers))
        self.requests = 0
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._client = httpx.Client(headers=dict(headers), timeout=_TIMEOUT, follow_redirects=False)

    def get(self, path: str, **params: Any) -> Json:
        """GET as JSON; raises Rejected, KeyRefused or Unreachable."""
        return self.ask("GET", path, params=params).value

    def post(self, path: str, body: Json, **params: Any) -> Json:
        """POST for a question that changes nothing; raises as `get`."""
        return self.ask("POST", path, params=params, body=body).value

    def ask(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Json = None) -> Answer:
        """Ask until there is a whole answer, waiting longer each time, or as long as the server says."""
        waited, failure = 0.0, "no answer"
        tries = 0
        while tries < _TRIES:
            asked_for: float | None = None
            try:
                response = self._send(method, path, params or {}, body)
                if response.status_code < 300:
                    return Answer(response.json(), _date(response))
                self._refuse_for_good(response, method, path)
                failure = f"status {response.status_code}"
                asked_for = _retry_after(response)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = _told(error)
            except json.JSONDecodeError:
                failure = "an answer that is no JSON, or was cut off"
            if asked_for is None:
                asked_for = backoff_s(tries, first_s=_FIRST_WAIT, longest_s=_LONGEST_WAIT)
                tries += 1
            if tries >= _TRIES or waited + asked_for > _PATIENCE:
                break
            self._sleep(asked_for)
            if self._closed.is_set():
                failure = "asking was given up"
                break
            waited += asked_for
        raise Unreachable(
            f"{self.base_url} gave no usable answer to {method} {path}: {failure}",
            hint="run it again; what was read is kept",
        )

    def seconds_a_request(self) -> float:
        """The mean so far."""
        return self._seconds / self.requests if self.requests else 0.0

    def close(self) -> None:
        """Close the connections; whoever waits for an answer in another thread gives up."""
        self._closed.set()
        self._client.close()

    def __repr__(self) -> str:
        """Without the headers: they hold the key."""
        return f"Http({self.base_url!r})"

    def _send(self, method: str, path: str, params: Mapping[str, Any], body: Json) -> httpx.Response:
        told = {name: value for name, value in params.items() if value is not None}
        began = time.perf_counter()
        try:
            if body is None:
                return self._client.request(method, self.base_url + path, params=told)
            return self._client.request(method, self.base_url + path, params=told, json=body)
        finally:
            with self._lock:
                self.requests += 1
                self._seconds += time.perf_counter() - began

    def _refuse_for_good(self, response: httpx.Response, method: str, path: str) -> None:
        status = response.status_code
        if status in (401, 403):
            raise KeyRefused(
                f"{self.base_url} refuses the key (status {status} to {method} {path})",
                hint="check MEM0_API_KEY, and that the key may read what is asked for",
            )
        if 300 <= status < 400:
            raise Unreachable(
                f"{self.base_url} redirects {path}, and the key is not carried to another address",
                hint="set `base_url` to the final address",
            )
        if status != 429 and status not in _AGAIN:
            raise Rejected(f"{self.base_url} answered {status} to {method} {path}: {_detail(response)}", status)


def checked_url(url: str, *, with_key: bool) -> str:
    """The address without a slash at its end; https where a key goes along, unless it is this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{without_credentials(url)!r} is no address", hint="it begins with https://")
    if parts.username or parts.password:
        raise InputError(
            f"the address {without_credentials(url)} carries a user or a password", hint="name the key by itself"
        )
    if with_key and parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise InputError(f"{without_credentials(url)} is not https, so the key would travel in the open")
    return without_credentials(url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks for; None where it asks for none. A 429 without a word is given some time too."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - (_date(response) or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError):
        return None


def _date(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def _told(error: Exception) -> str:
    """httpx's own words may name nothing at all; the class always says something."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _detail(response: httpx.Response) -> str:
    """What the server says is wrong, cut short: it may repeat what it was sent."""
    try:
        told = response.json()
        text = (
            str(told.get("detail") or told.get("message") or told.get("error") or told)
            if isinstance(told, dict)
            else str(told)
        )
    except ValueError:
        text = response.text
    return text.strip()[:200] or "no reason given"
