"""The client an application imports: sessions as the published guide shows them.

    client = SpectronClient(base_url="https://…", api_key=key, context="acme")
    async with client.sessions.create(scope={"user": "alice"}) as session:
        await session.remember("I prefer vegetarian food.")
        results = await session.recall("What does Alice eat?", top_k=5)
        print(results.formatted)

Leaving the block sends nothing: a session is closed by no longer using it, and deleting it would delete its turns.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Generator, Mapping
from typing import Any, NoReturn

from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import InputError, KeyRefused, MigrateError, NotLegal, Unreachable
from spectron_migrate.mapping import segment
from spectron_migrate.records import Category, Infer, Json, Receipt, Selector, canonical_json
from spectron_migrate.settings import parse_endpoint
from spectron_migrate.settings.values import context_in
from spectron_migrate.spectron.answers import (
    Doubt,
    InFlight,
    KeyRejected,
    OtherBody,
    Refused,
    RetryLater,
    ScopeRejected,
    WrongSession,
    classify,
)
from spectron_migrate.spectron.api import Recall, Sleep, SpectronApi
from spectron_migrate.spectron.grants import is_within
from spectron_migrate.spectron.scopes import ensure
from spectron_migrate.spectron.wire import InDoubt, NotBegun

WRITE_TRIES = 6


class Session:
    """One open session, in one scope; made by `SpectronClient.sessions.create`."""

    def __init__(self, api: SpectronApi, session_id: str, path: str, *, sleep: Sleep = asyncio.sleep) -> None:
        """`path`: the scope's path; every call stays within it."""
        self.id = session_id
        self.path = path
        self._api = api
        self._sleep = sleep

    @property
    def lens(self) -> Selector:
        """The scopes that the session reads: its own and everything below."""
        return ((self.path,), (f"{self.path}/*",))

    async def remember(
        self,
        text: str,
        *,
        role: str = "user",
        infer: Infer = "full",
        memory_category: Category = "knowledge",
        observed_at: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Store a text exactly once: all tries send the same bytes under the same idempotency key.

        The category is always sent, because a memory that Spectron itself puts into `context` expires after 7 days.
        Raises KeyRefused, InputError for a text that the server refuses, Unreachable after the last try.
        """
        body: dict[str, Json] = {
            "text": text,
            "infer": infer,
            "session_id": self.id,
            "scopes": [[self.path]],
            "role": role,
            "memory_category": memory_category,
        }
        if observed_at is not None:
            body["observed_at"] = observed_at
        if labels:
            body["labels"] = [f"{name}={value}" for name, value in sorted(labels.items())]
        return await self.write(canonical_json(body).encode(), infer)

    async def add_turn(self, *, role: str, content: str) -> Receipt:
        """Add a turn of a conversation; on the wire that is a write to this session."""
        return await self.remember(content, role=role)

    async def recall(self, query: str, *, top_k: int = 10) -> Recall:
        """What is known about the query in this scope and below it, best first; `top_k` is 1 to 50."""
        if not 1 <= top_k <= 50:
            raise InputError(f"top_k is {top_k}, Spectron takes 1 to 50")
        return await self._api.query(query, lens=self.lens, k=top_k)

    async def context(self, query: str, *, top_k: int = 10) -> str:
        """The text that the server would put into a prompt, from this scope and below it."""
        return await self._api.render_context(query, lens=self.lens, k=top_k)

    async def profile(self) -> dict[str, Json]:
        """The profile of everything that the key reaches; raises NotLegal where that is more than this scope."""
        await self._refuse_wider("memory:read", "profile")
        return await self._api.profile()

    async def forget(self, query: str, *, dry_run: bool = False) -> int:
        """Forget by meaning, in everything that the key reaches; raises NotLegal where that is more than this scope."""
        await self._refuse_wider("memory:forget", "forget")
        return await self._api.forget(query, dry_run=dry_run)

    async def _refuse_wider(self, verb: str, call: str) -> None:
        patterns = (await self._api.me()).grants.get(verb, ())
        if not patterns:
            raise KeyRefused(f"the key lacks {verb}")
        wider = [pattern for pattern in patterns if not is_within(pattern, self.path)]
        if wider:
            raise NotLegal(
                f"{call} takes no scope, and the key reaches beyond {self.path}: {', '.join(wider[:5])}",
                hint=f"use a key that is granted {verb} for {self.path} and {self.path}/* only",
            )

    async def write(self, content: bytes, infer: Infer) -> Receipt:
        """Send the bytes of a POST /facts that names this session; retries and raises as `remember` does."""
        key = uuid.uuid4().hex
        reason = ""
        for attempt in range(WRITE_TRIES):
            asked_s: float | None = None
            try:
                result = classify(await self._api.post_fact(content, key=key), session_id=self.id, infer=infer)
            except (NotBegun, InDoubt) as problem:
                reason = problem.reason
            else:
                match result:
                    case Receipt():
                        return result
                    case RetryLater(reason, asked_s):
                        pass
                    case InFlight(reason) | Doubt(reason):
                        pass
                    case KeyRejected(reason) | ScopeRejected(reason):
                        raise KeyRefused(f"the key may not write to {self.path}: {reason}")
                    case WrongSession(other):
                        raise MigrateError(f"Spectron wrote to session {other} instead of {self.id}")
                    case OtherBody(reason) | Refused(_, reason):
                        raise InputError(f"Spectron refused the text: {reason}")
            if attempt < WRITE_TRIES - 1:
                await self._sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, asked_s=asked_s, jitter=True))
        raise Unreachable(f"Spectron did not confirm a write to {self.path} in {WRITE_TRIES} tries: {reason}")


def _missing_context() -> NoReturn:
    raise InputError("no Spectron context is known", hint="give context=, or set SPECTRON_CONTEXT")


class _Opening:
    """The result of `sessions.create(…)`: await it, or enter it with `async with`."""

    def __init__(self, client: SpectronClient, path: str, metadata: Mapping[str, Json] | None) -> None:
        self._client = client
        self._path = path
        self._metadata = metadata

    def __await__(self) -> Generator[Any, None, Session]:
        return self._client._open(self._path, self._metadata).__await__()

    async def __aenter__(self) -> Session:
        return await self._client._open(self._path, self._metadata)

    async def __aexit__(self, *_: object) -> None:
        await self._client._leave()


class Sessions:
    """Opens sessions: `client.sessions`."""

    def __init__(self, client: SpectronClient) -> None:
        """Made by the client itself."""
        self._client = client

    def create(self, *, scope: Mapping[str, str], metadata: Mapping[str, Json] | None = None) -> _Opening:
        """A new session in a scope such as `{"user": "alice"}`, which becomes `user/alice`.

        The scope is registered if needed. Ids that are not legal segments are escaped as in the mapping.
        """
        if not scope:
            raise InputError("an empty scope would write to everything that the key reaches")
        for name in scope:
            if segment(name) != name:
                raise InputError(f"{name!r} is not a legal name of a scope dimension")
        return _Opening(
            self._client, "/".join(f"{name}/{segment(str(value))}" for name, value in scope.items()), metadata
        )


class SpectronClient:
    """One context of one Spectron. `close`, or leaving the last session, closes the connections."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        context: str | None = None,
        timeout: float = 120.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`base_url`: https, or http on loopback; `timeout` in seconds.

        `context` may come from SPECTRON_CONTEXT, because the published guide's examples give none.
        Raises InputError for a bad endpoint, and where no context is known.
        """
        try:
            self.base_url = parse_endpoint(base_url)
        except ValueError as error:
            raise InputError(f"base_url {error}") from None
        self.context = context or context_in(os.environ) or _missing_context()
        self.sessions = Sessions(self)
        self._timeout_s = timeout
        self._sleep = sleep
        self._api_key = api_key
        self._api: SpectronApi | None = None
        self._known: set[str] = set()
        self._open_sessions = 0

    def __repr__(self) -> str:
        return f"SpectronClient(base_url={self.base_url!r}, context={self.context!r})"

    async def __aenter__(self) -> SpectronClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections without sending anything."""
        api, self._api = self._api, None
        if api is not None:
            await api.close()

    async def _open(self, path: str, metadata: Mapping[str, Json] | None) -> Session:
        if self._api is None:
            self._api = SpectronApi(
                self.base_url,
                self.context,
                api_key=self._api_key,
                timeout_s=self._timeout_s,
                sleep=self._sleep,
            )
        self._open_sessions += 1
        try:
            if path not in self._known:
                await ensure(self._api, [path])
                self._known.add(path)
            opened = await self._api.create_session(((path,),), metadata)
        except (NotBegun, InDoubt) as problem:
            await self._leave()
            raise Unreachable(f"Spectron at {self.base_url} opened no session: {problem.reason}") from problem
        except BaseException:
            await self._leave()
            raise
        return Session(self._api, opened.id, path, sleep=self._sleep)

    async def _leave(self) -> None:
        self._open_sessions -= 1
        if self._open_sessions <= 0:
            await self.close()
