"""The client an application imports: sessions as the published guide shows them.

    client = SpectronClient(base_url="https://…", api_key=key, context="acme")
    async with client.sessions.create(scope={"user": "alice"}) as session:
        await session.remember("I prefer vegetarian food.")
        results = await session.recall("What does Alice eat?", top_k=5)
        print(results.formatted)

Leaving the block sends nothing: to close a session is to stop using it, and deleting it would delete its turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import InputError, KeyRefused, MigrateError, NotLegal, ScopeRefused, Unreachable
from spectron_migrate.mapping import segment
from spectron_migrate.records import Category, Infer, Json, Receipt, Selector, canonical_json, same_text
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
    WriteResult,
    WrongSession,
    classify,
)
from spectron_migrate.spectron.api import Sleep, SpectronApi, UnknownSession
from spectron_migrate.spectron.grants import is_within
from spectron_migrate.spectron.rows import Recall
from spectron_migrate.spectron.scopes import ensure
from spectron_migrate.spectron.wire import InDoubt, NotBegun

WRITE_TRIES = 6


class SessionEnded(InputError):
    """The server no longer takes writes to the session, and the session does not have the text."""


class Session:
    """One open session, in one scope; made by `SpectronClient.sessions.create`."""

    def __init__(
        self,
        api: SpectronApi,
        session_id: str,
        path: str,
        *,
        since: str | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`path`: the scope's path; every call stays within it.

        `since`: when it was opened, by the server's clock. Turns from before belong to others, for instance if the
        server answered with an existing session.
        """
        self.id = session_id
        self._since = since
        self.path = path
        self._api = api
        self._sleep = sleep
        self._claimed: set[str] = set()
        """Turns by which writes of this object were confirmed."""
        self._unnamed: Counter[str] = Counter()
        """How many confirmed writes of a text were answered without a turn."""
        self._unconfirmed: dict[bytes, str] = {}
        """Keys of bytes whose write ended in doubt. If called again, they are sent under the same key."""
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

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
        key: str | None = None,
    ) -> Receipt:
        """Store a text exactly once: all tries send the same bytes under the same idempotency key.

        After a doubt the session's turns are listed before anything is sent again. `key`: an idempotency key of the
        caller, for one text in one session. Without it, a call that ended in Unreachable keeps its key for the next
        call with the same text. The category is always sent, because a memory that Spectron itself puts into `context`
        expires after 7 days. Raises KeyRefused, InputError for a text that the server refuses, Unreachable after the
        last try.
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
        return await self.write(canonical_json(body).encode(), infer, key=key)

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
        """The profile of everything that the key reaches; raises NotLegal if that is more than this scope."""
        await self._refuse_wider("memory:read", "profile")
        return await self._api.profile()

    async def forget(self, query: str, *, dry_run: bool = False) -> int:
        """Forget by meaning, in everything that the key reaches; raises NotLegal if that is more than this scope."""
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

    async def write(self, content: bytes, infer: Infer, *, key: str | None = None) -> Receipt:
        """Send the bytes of a POST /facts that names this session; retries and raises as `remember` does."""
        # Only one write of the same bytes at a time, because only then a turn with their text is certainly theirs.
        async with self._locks.setdefault(content, asyncio.Lock()):
            unconfirmed = self._unconfirmed.get(content)
            write = _Write(self, content, infer, key or unconfirmed or uuid.uuid4().hex)
            self._unconfirmed[content] = write.key
            try:
                receipt = await write.run(look_first=unconfirmed is not None)
            except InputError:
                del self._unconfirmed[content]  # refused, so nothing is in doubt
                raise
            del self._unconfirmed[content]
        return receipt

    def _note(self, receipt: Receipt, text: str) -> None:
        """Note its turn, which cannot be that of another write."""
        if receipt.turn_id is not None:
            self._claimed.add(receipt.turn_id)
        else:
            self._unnamed[text] += 1


class _Write:
    """One write: the same bytes under the same key until it is certain what became of them.

    After a doubt, the session's turns are listed before anything is sent again: a turn with this text that no other
    write has is the receipt. So even a server that stored the text and then failed, or that forgot the key, stores it
    only once.
    """

    def __init__(self, session: Session, content: bytes, infer: Infer, key: str) -> None:
        self.key = key
        self._session = session
        self._api = session._api
        self._content = content
        self._infer = infer
        self._text = str(json.loads(content)["text"])
        self._waited_in_flight_s = 0.0
        self._was_in_doubt = False
        self._was_throttled = False
        self._is_listed = True
        """Whether the last listing of the session's turns was answered."""

    async def run(self, *, look_first: bool) -> Receipt:
        """`look_first`: an earlier call for these bytes ended in doubt."""
        receipt = await self._look() if look_first else None
        self._was_in_doubt = look_first
        tries, reason = 0, ""
        while receipt is None and tries < WRITE_TRIES:
            result = await self._send()
            asked_s: float | None = None
            is_doubt = True
            match result:
                case Receipt():
                    receipt = result
                    break
                case NotBegun():
                    # The server may be restarting, and may no longer know the key of an earlier try that it stored.
                    reason, is_doubt = result.reason, self._was_throttled or self._was_in_doubt
                case RetryLater(reason, asked_s):
                    is_doubt, self._was_throttled = False, True
                case InFlight(reason):
                    pass
                case Doubt(reason):
                    pass
                case KeyRejected(reason) | ScopeRejected(reason):
                    raise KeyRefused(f"the key may not write to {self._session.path}: {reason}")
                case WrongSession(other):
                    raise MigrateError(f"Spectron wrote to session {other} instead of {self._session.id}")
                case Refused(_, reason):
                    receipt = await self._look()
                    if receipt is not None:
                        break
                    is_absent = self._is_listed or not self._was_in_doubt
                    ended = result.may_be_of_session and is_absent
                    raise (SessionEnded if ended else InputError)(f"Spectron refused the text: {reason}")
                case OtherBody(reason):
                    raise InputError(f"Spectron refused the text: {reason}")
            pause_s = backoff_s(tries, first_s=0.25, longest_s=8.0, asked_s=asked_s, jitter=True)
            if isinstance(result, InFlight) and self._waited_in_flight_s < self._api.timeout_s:
                self._waited_in_flight_s += pause_s
                tries = min(tries + 1, WRITE_TRIES - 1)  # it is being processed: wait as long as that may take
            else:
                tries += 1
            if tries < WRITE_TRIES or is_doubt:
                await self._session._sleep(pause_s)
            if is_doubt:
                self._was_in_doubt = True
                receipt = await self._look()
        if receipt is None:
            raise Unreachable(
                f"Spectron did not confirm a write to {self._session.path} in {WRITE_TRIES} tries: {reason}",
                hint="call it again with the same text in the same session: it is looked for before it is sent",
            )
        self._session._note(receipt, self._text)
        return receipt

    async def _send(self) -> WriteResult | NotBegun:
        try:
            response = await self._api.post_fact(self._content, key=self.key)
        except NotBegun as problem:
            return problem
        except InDoubt as problem:
            return Doubt(problem.reason, problem.finished)
        return classify(response, session_id=self._session.id, infer=self._infer)

    async def _look(self) -> Receipt | None:
        """The turn of this write, if the session has it. Raises Unreachable if it cannot be listed."""
        try:
            listed = await self._api.turns(self._session.id)
        except (KeyRefused, ScopeRefused, UnknownSession):
            self._is_listed = False
            return None  # the key may not read, so only the idempotency key protects the write
        self._is_listed = True
        others = {turn.id for turn in listed if turn.is_from_before(self._session._since)} | self._session._claimed
        own = [turn for turn in listed if turn.id not in others and same_text(turn.content, self._text)]
        own = own[self._session._unnamed[self._text] :]
        return Receipt(own[0].id, None, (), self._infer == "none") if own else None


def _context_of_environment() -> str:
    """Raises InputError if no variable, or two different ones, name a context."""
    try:
        found = context_in(os.environ)
    except ValueError as error:
        raise InputError(f"the Spectron context: {error}", hint="give context=, or unset one of them") from None
    if found is None:
        raise InputError("no Spectron context is known", hint="give context=, or set SPECTRON_CONTEXT")
    return found


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

        `context` may come from SPECTRON_CONTEXT, because the published guide's examples give none. Raises InputError
        for a bad endpoint, and if no context is known.
        """
        try:
            self.base_url = parse_endpoint(base_url)
        except ValueError as error:
            raise InputError(f"base_url {error}") from None
        self.context = context or _context_of_environment()
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
        return Session(self._api, opened.id, path, since=opened.server_now, sleep=self._sleep)

    async def _leave(self) -> None:
        self._open_sessions -= 1
        if self._open_sessions <= 0:
            await self.close()
