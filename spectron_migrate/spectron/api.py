"""The published operations that a migration uses, typed. Responses of all generations are understood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import ExitCode, InputError, KeyRefused, MigrateError, ScopeRefused, Unreachable
from spectron_migrate.records import Json, Selector, canonical_json, counted
from spectron_migrate.spectron.echo import check_echo
from spectron_migrate.spectron.grants import Me, grants_of
from spectron_migrate.spectron.hits import hit_of
from spectron_migrate.spectron.paging import NotAListing, Paging
from spectron_migrate.spectron.rows import OpenedSession, Recall, ScopeNode, Turn, turns_of
from spectron_migrate.spectron.selectors import selector_of
from spectron_migrate.spectron.wire import UNKNOWN_STATUSES, InDoubt, NotBegun, Response, Wire

Sleep = Callable[[float], Awaitable[None]]
MAX_K = 50
READ_TRIES = 6
LISTING_TRIES = 6
"""How often a session is listed, for about 8 s, before what is missing counts as not there."""
MAX_READ_WAIT_S = 60.0
"""The longest `Retry-After` that a read obeys. A server that asks for more counts as unreachable for now."""
_KEYS = {"scopes": "path"}
"""The field that distinguishes the rows of a listing, if it is not `id`."""
Generation = Literal["0.0.0", "0.2.1", "0.3.0"]
"""Generations of the published API. A newer server counts as the last one."""


class UnknownSession(MigrateError):
    """The server does not know a session of ours."""

    exit_code = ExitCode.UNREACHABLE
    kind = "unknown_session"


class SpectronApi:
    """One context of one Spectron, with one key."""

    def __init__(
        self,
        endpoint: str,
        context: str,
        *,
        api_key: str,
        timeout_s: float = 120.0,
        max_connections: int = 64,
        sleep: Sleep = asyncio.sleep,
        read_tries: int = READ_TRIES,
    ) -> None:
        """`endpoint` without `/api/v1`. The key is kept only in the connection pool.

        `read_tries`: how often a call that changes nothing is tried.
        """
        self.endpoint = endpoint
        self.context = context
        self.timeout_s = timeout_s
        self.wire = Wire(
            f"{endpoint.rstrip('/')}/api/v1",
            api_key=api_key,
            timeout_s=timeout_s,
            max_connections=max_connections,
        )
        self._prefix = f"/{quote(context, safe='')}"
        self._sleep = sleep
        self._read_tries = read_tries
        self._generation: Generation | None = None

    async def __aenter__(self) -> SpectronApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Nothing is sent, because closing a session on the server would delete its turns."""
        await self.wire.close()

    # -- writes: one request each, never repeated here, because only the caller knows whether that is safe --

    async def post_fact(self, content: bytes, *, key: str) -> Response:
        """POST /facts with these exact bytes under this idempotency key; raises NotBegun or InDoubt."""
        return await self.wire.call("POST", f"{self._prefix}/facts", content=content, headers={"Idempotency-Key": key})

    async def post_batch(self, content: bytes, *, key: str) -> Response:
        """POST /facts/batch with these exact bytes under this idempotency key; raises NotBegun or InDoubt."""
        return await self.wire.call(
            "POST", f"{self._prefix}/facts/batch", content=content, headers={"Idempotency-Key": key}
        )

    async def register_scope(self, path: str) -> Response:
        """POST /scopes; not idempotent by contract, so the caller interprets the response."""
        return await self._post("/scopes", _body({"path": path}))

    async def create_session(self, selector: Selector, metadata: Mapping[str, Json] | None = None) -> OpenedSession:
        """POST /sessions with explicit scopes; raises NotBegun, InDoubt, KeyRefused or MigrateError.

        Raises NotLegal if the server made it in other scopes, because nobody may write to it then.
        """
        response = await self._post(
            "/sessions",
            _body({"scopes": [list(clause) for clause in selector], "metadata": dict(metadata or {})}),
        )
        if response.is_throttled:
            raise response.as_not_begun()
        if response.status == 201 and isinstance(response.body, dict) and isinstance(response.body.get("id"), str):
            echo = selector_of(response.body.get("scopes"))
            check_echo(echo, selector)
            return OpenedSession(response.body["id"], echo, response.date)
        if response.status < 300 or response.status >= 500:
            raise InDoubt(f"{response.status} {response.message}", finished=True)
        raise self.failure(response, f"a session for {canonical_json(selector)}")

    async def exchange(
        self, method: str, path: str, body: Mapping[str, Json], headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send one request and return its response as it is, for the probe; raises NotBegun or InDoubt."""
        return await self.wire.call(method, self._prefix + path, content=_body(body), headers=headers)

    async def preview(self, body: Mapping[str, Json]) -> Response:
        """POST /facts with `infer: preview`, which stores nothing: repeated like a read, under no key."""
        return await self._read("POST", "/facts", content=_body(body))

    async def forget(self, query: str, *, dry_run: bool) -> int:
        """POST /forget: by meaning, over everything that the key reaches; returns the number of rows."""
        body = _body({"query": query, "dryRun": dry_run})
        if dry_run:
            response = await self._read("POST", "/forget", content=body)
        else:
            response = await self._once_begun("/forget", body)
        return int(self._ok(response, "forget").get("deleted", 0))

    async def forget_scope(self, path: str, *, on_doubt: Callable[[], None] = lambda: None) -> int:
        """POST /scopes/forget: erase a node and everything below it for good; returns the number of rows.

        Repeating it is harmless; `on_doubt` is called for each try that may still arrive later.
        """
        body = _body({"path": f"{path}/"})
        response = await self._read("POST", "/scopes/forget", content=body, on_doubt=on_doubt)
        return int(self._ok(response, f"erasing scope {path}").get("forgotten", 0))

    async def tombstone_scope(self, path: str) -> bool:
        """DELETE /scopes: close an empty node to writes; False if the server refuses."""
        return (await self._read("DELETE", "/scopes", params={"path": path})).status == 204

    async def outlast_requests(self, already_s: float = 0.0) -> None:
        """Wait until no request that was cut off `already_s` seconds ago can arrive any more."""
        await self._sleep(max(0.0, self.timeout_s - already_s))

    # -- reads: repeated until there is a usable response, at most READ_TRIES times --

    async def health(self) -> bool:
        """Whether the server responds at all."""
        return (await self._read("GET", "/health", absolute=True)).status == 200

    async def me(self) -> Me:
        """GET /me; raises KeyRefused for a key (or a context) that the server does not know."""
        response = await self._read("GET", "/me")
        body = self._ok(response, "who the key is (/me)")
        principal = body.get("delegatedPrincipalId") or body.get("principalId") or ""
        return Me(str(principal), grants_of(body.get("effectiveGrants")), response.date)

    async def scopes(self) -> list[ScopeNode]:
        """All registered scopes that the key may see, including tombstoned ones."""
        rows = [row async for row in self.pages("/scopes", "scopes")]
        return [ScopeNode(str(row["path"]).strip("/"), bool(row.get("tombstonedAt"))) for row in rows]

    async def turns(self, session_id: str, *, shows: Callable[[list[Turn]], bool] | None = None) -> list[Turn]:
        """All turns of a session, oldest first; raises UnknownSession, KeyRefused or Unreachable.

        A listing may lag behind the writes. As long as `shows` is false for it, it is requested again, for some
        seconds. So is a listing with fewer turns than the server counts, if it is known to count them; if it stays
        short, that raises Unreachable.
        """
        path = f"/sessions/{quote(session_id, safe='')}/turns"
        counts = self._generation not in (None, "0.0.0")
        for attempt in range(LISTING_TRIES):
            paging = Paging("turns", "id")
            query = {"count": "true"} if counts else None
            turns = turns_of([row async for row in self.pages(path, "turns", query, paging)])
            is_last = attempt == LISTING_TRIES - 1
            if len(turns) < (paging.total or 0):
                if is_last:
                    what = f"lists {len(turns)} of {counted(paging.total or 0, 'turn')} of session {session_id}"
                    raise Unreachable(f"Spectron at {self.endpoint} {what}")
            elif shows is None or shows(turns) or is_last:
                break
            await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=4.0))
        return turns

    async def query(
        self,
        query: str,
        *,
        lens: Selector,
        k: int,
        mode: str = "hybrid",
        include: Sequence[str] = ("facts", "passages"),
        include_duplicates: bool = False,
        as_of: str | None = None,
        source: str = "spectron-migrate",
        tries: int | None = None,
    ) -> Recall:
        """POST /query; the lens is always set, because an empty one reads everything that the key reaches.

        `as_of`: ask for what was known at that time. `tries`: instead of `read_tries`.
        """
        body = {
            "query": query,
            "k": k,
            "mode": mode,
            "lens": [list(clause) for clause in _not_empty(lens)],
            "include": list(include),
            "includeDuplicates": include_duplicates,
            "source": source,
            **({"asOf": as_of} if as_of is not None else {}),
        }
        response = self._ok(await self._read("POST", "/query", content=_body(body), tries=tries), "a recall")
        return Recall(tuple(hit_of(row) for row in response.get("hits") or []), str(response.get("tier", "")))

    async def render_context(self, query: str, *, lens: Selector, k: int) -> str:
        """POST /context: the text that the server would put into a prompt."""
        body = {"query": query, "k": k, "lens": [list(clause) for clause in _not_empty(lens)]}
        return str(self._ok(await self._read("POST", "/context", content=_body(body)), "a context").get("context", ""))

    async def profile(self) -> dict[str, Json]:
        """GET /profile: over everything that the key reaches; it takes no scope."""
        return self._ok(await self._read("GET", "/profile"), "the profile")

    # -- how --

    async def generation(self) -> Generation:
        """The generation of the server's API, judged by its answers: the form of a list, and whether a route exists."""
        if self._generation is None:
            scopes = await self._read("GET", "/scopes", params={"limit": "1"})
            if scopes.status != 200:
                self._ok(scopes, "the list of scopes")
            if isinstance(scopes.body, list):
                self._generation = "0.0.0"
            else:
                found = await self._read("GET", "/uncertainty", params={"limit": "1"})
                self._generation = "0.2.1" if found.status in (404, 405, 501) else "0.3.0"
        return self._generation

    async def read_row(self, path: str, what: str) -> dict[str, Json] | None:
        """The answer to a GET; None if the server knows nothing there (404)."""
        response = await self._read("GET", path)
        return None if response.status in UNKNOWN_STATUSES else self._ok(response, what)

    async def _post(self, path: str, content: bytes) -> Response:
        return await self.wire.call("POST", self._prefix + path, content=content)

    async def _once_begun(self, path: str, content: bytes) -> Response:
        """Send a write, and send it again only if it was not begun (429 and 503); raises NotBegun or InDoubt."""
        for attempt in range(self._read_tries - 1):
            response = await self._post(path, content)
            if not response.is_throttled:
                return response
            asked_s = min(response.retry_after_s or 0.0, MAX_READ_WAIT_S)
            await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, asked_s=asked_s, jitter=True))
        return await self._post(path, content)

    async def _read(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        absolute: bool = False,
        on_doubt: Callable[[], None] = lambda: None,
        tries: int | None = None,
    ) -> Response:
        """Make a call that changes nothing.

        It is repeated after 429, 5xx or no response; finally raises Unreachable.
        """
        reason, tries = "", tries or self._read_tries
        for attempt in range(tries):
            asked_s = 0.0
            try:
                response = await self.wire.call(
                    method, path if absolute else self._prefix + path, content=content, params=params
                )
            except (NotBegun, InDoubt) as problem:
                reason = problem.reason
                if isinstance(problem, InDoubt):
                    on_doubt()
            else:
                if response.status == 501 or (response.status != 429 and response.status < 500):
                    return response
                reason = f"{response.status} {response.message}"
                if response.status >= 500 and not response.is_throttled:
                    on_doubt()
                asked_s = min(response.retry_after_s or 0.0, MAX_READ_WAIT_S)
            if attempt < tries - 1:
                await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, asked_s=asked_s, jitter=True))
        how_often = counted(tries, "try", "tries")
        raise Unreachable(
            f"Spectron at {self.endpoint} gave no usable response to {method} {path} in {how_often}: {reason}",
            hint="is the endpoint right, and is the server up? then run the command again",
        )

    async def pages(
        self, path: str, name: str, query: Mapping[str, str] | None = None, paging: Paging | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Rows of a listing in any published format, each once; none if the server does not know it (404).

        `name`: the field of the rows; `query`: further parameters.
        """
        paging = paging or Paging(name, _KEYS.get(name, "id"))
        while paging.params is not None:
            response = await self._read("GET", path, params={**(query or {}), **paging.params})
            body: Any = response.body if response.status == 200 else self._ok(response, f"the list of {name}")
            try:
                rows = paging.read(body)
            except NotAListing as problem:
                raise Unreachable(f"Spectron at {self.endpoint} answered the list of {name} {problem}") from problem
            for row in rows:
                yield row

    def _ok(self, response: Response, what: str) -> dict[str, Json]:
        if response.status == 200 and isinstance(response.body, dict):
            return response.body
        raise self.failure(response, what)

    def failure(self, response: Response, what: str) -> MigrateError:
        """The error for an unexpected response. Responses to writes of facts are classified in `answers`.

        `what`: what was asked for, such as `the list of scopes`.
        """
        reason = f"{response.status} {response.message}"
        if response.status == 401:
            return KeyRefused(
                f"Spectron at {self.endpoint} refused the key for context {self.context}: {reason}",
                hint="check SPECTRON_API_KEY and SPECTRON_CONTEXT: an unknown context is answered like a wrong key",
            )
        if response.names_bad_context:
            return InputError(
                f"Spectron at {self.endpoint} takes no context {self.context}: {reason}",
                hint="check SPECTRON_CONTEXT: it is the context's id, not its display name",
            )
        if response.status == 403:
            return ScopeRefused(
                f"the key may not do this in context {self.context}: {what}: {reason}",
                hint="grant the key what it needs there",
            )
        if response.status in UNKNOWN_STATUSES and what == "the list of turns":
            return UnknownSession(f"Spectron at {self.endpoint} does not list the session: {reason}")
        return Unreachable(f"Spectron at {self.endpoint} could not answer {what}: {reason}")


def _body(value: Mapping[str, Json]) -> bytes:
    return canonical_json(value).encode()


def _not_empty(lens: Selector) -> Selector:
    if not lens or not all(lens):
        raise ValueError("an empty lens would read everything that the key reaches")
    return lens
