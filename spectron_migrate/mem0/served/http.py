"""JSON over HTTP to Mem0's Platform, its self-hosted server and stores: retries, no redirects, no key in messages."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import httpx

from spectron_migrate.backoff import backoff_s, retry_after_s
from spectron_migrate.errors import KeyRefused, Unreachable
from spectron_migrate.mem0.addresses import checked_url
from spectron_migrate.records import Json
from spectron_migrate.scrubbing import Scrubber

_MOST_TRIES = 7
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_MOST_WAITED_S = 900.0
"""How long one request may wait in total, including waits that the server asks for (`Retry-After`)."""

_RETRIED_STATUSES = frozenset({408, 425, 500, 502, 503, 504})
_HOLDS_A_KEY = re.compile("key|auth|token|secret", re.IGNORECASE)
"""Header names that may hold a key or a password."""
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)


class Rejected(Unreachable):
    """The server refused the request for good; a retry would change nothing."""

    def __init__(self, message: str, status: int) -> None:
        """`status`: the HTTP status (400, 404, 422 and the like)."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class JsonResponse:
    """A complete response: its JSON value, and the server's time if it sent one."""

    value: Json
    date: datetime | None
    headers: Mapping[str, str]
    """By names in lower case."""


class JsonClient:
    """JSON over HTTP against one host; safe to share between threads."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], object] | None = None,
        key: str = "MEM0_API_KEY",
        verify: bool | str = True,
        auth: httpx.Auth | None = None,
        plain_http: bool = False,
    ) -> None:
        """`headers` hold the key, if there is one; raises InputError for an address that would expose it.

        `sleep` waits between attempts; the default ends early when `close` is called. `key`: how hints name the key.
        `verify`: whether the certificate is checked, or the file of the authority that signed it. `plain_http`: the key
        may be sent unencrypted, as Mem0 sends it to a store in the same network.
        """
        self.base_url = checked_url(base_url, with_key=bool(headers) and not plain_http)
        self._key = key
        self._scrubbers = [Scrubber(secret) for secret in _secrets_of(headers)]
        self._requests = 0
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._client = httpx.Client(
            headers=dict(headers),
            timeout=_TIMEOUT,
            follow_redirects=False,
            auth=auth,
            verify=ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify,
        )

    def get(self, path: str, **params: Any) -> Json:
        """GET as JSON; raises Rejected, KeyRefused or Unreachable."""
        return self.request("GET", path, params=params).value

    def finds(self, path: str, **params: Any) -> bool:
        """Whether GET finds something there: False for 404; raises as `get` does for every other refusal."""
        try:
            self.get(path, **params)
        except Rejected as error:
            if error.status != 404:
                raise
            return False
        return True

    def post(self, path: str, body: Json, **params: Any) -> Json:
        """POST a query that changes nothing; raises as `get` does."""
        return self.request("POST", path, params=params, body=body).value

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonResponse:
        """Retry until there is a complete response. Waits double, or are as long as the server asks for."""
        waited, failure = 0.0, "no answer"
        tries = 0
        while tries < _MOST_TRIES:
            wait_s: float | None = None
            try:
                response = self._send(method, path, params or {}, body, headers)
                if response.status_code < 300:
                    return JsonResponse(response.json(), _date(response), response.headers)
                self._raise_unless_retryable(response, method, path)
                failure = f"status {response.status_code}"
                wait_s = _asked_wait_s(response)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._scrubbed(_describe(error))
            except json.JSONDecodeError:
                failure = "an answer that is not JSON, or was truncated"
            if wait_s is None:
                wait_s = backoff_s(tries, first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
                tries += 1
            if tries >= _MOST_TRIES or waited + wait_s > _MOST_WAITED_S:
                break
            self._sleep(wait_s)
            if self._closed.is_set():
                failure = "the request was cancelled"
                break
            waited += wait_s
        raise Unreachable(
            f"{self.base_url} gave no usable answer to {method} {path}: {failure}",
            hint="run it again; what was read is kept",
        )

    def mean_request_seconds(self) -> float:
        """Mean duration of the requests so far."""
        return self._seconds / self._requests if self._requests else 0.0

    def close(self) -> None:
        """Close the connections; requests that wait in other threads are cancelled."""
        self._closed.set()
        self._client.close()

    def __repr__(self) -> str:
        """Without the headers, which hold the key."""
        return f"JsonClient({self.base_url!r})"

    def _send(
        self, method: str, path: str, params: Mapping[str, Any], body: Json, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        query = {name: value for name, value in params.items() if value is not None}
        began = time.perf_counter()
        try:
            more: dict[str, Any] = {} if body is None else {"json": body}
            return self._client.request(method, self.base_url + path, params=query, headers=headers, **more)
        finally:
            with self._lock:
                self._requests += 1
                self._seconds += time.perf_counter() - began

    def _raise_unless_retryable(self, response: httpx.Response, method: str, path: str) -> None:
        status = response.status_code
        if status in (401, 403):
            raise KeyRefused(
                f"{self.base_url} refuses the key (status {status} to {method} {path})",
                hint=f"check {self._key}, and that the key may read what is asked for",
            )
        if 300 <= status < 400:
            raise Unreachable(
                f"{self.base_url} redirects {path}, and the key is never sent to another address",
                hint="set `base_url` to the final address",
            )
        if status != 429 and status not in _RETRIED_STATUSES:
            raise Rejected(f"{self.base_url} answered {status} to {method} {path}: {self._detail(response)}", status)

    def _detail(self, response: httpx.Response) -> str:
        """What the server says is wrong, shortened, because it may repeat the request."""
        return self._scrubbed(_reason(response)).strip()[:200] or "no reason given"

    def _scrubbed(self, text: str) -> str:
        for scrubber in self._scrubbers:
            text = scrubber.text(text)
        return text


def _asked_wait_s(response: httpx.Response) -> float | None:
    """The wait that the server asks for, in seconds; None if it asks for none."""
    date = response.headers.get("Date") or format_datetime(datetime.now(UTC))
    return retry_after_s(response.headers.get("Retry-After"), date)


def _date(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def _describe(error: Exception) -> str:
    """The class and the text, because the text of an httpx error may be empty."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _reason(response: httpx.Response) -> str:
    try:
        value = response.json()
    except ValueError:
        return response.text
    if isinstance(value, dict):
        return str(value.get("detail") or value.get("message") or value.get("error") or value)
    return str(value)


def _secrets_of(headers: Mapping[str, str]) -> Iterator[str]:
    """The keys and passwords in the headers of each request, without the scheme before them."""
    for name, value in headers.items():
        if not _HOLDS_A_KEY.search(name) or not value.strip():
            continue
        scheme, _, secret = value.strip().rpartition(" ")
        yield secret
        if scheme.lower() == "basic":
            with suppress(ValueError):
                yield b64decode(secret).decode().partition(":")[2]
