"""Answers Mem0's calls once the cutover is complete.

`add` writes to Spectron, `search` queries it. `get`, `get_all` and `history` are answered from the catalogue and from
the memories added since. A call that Spectron cannot answer raises `NotInSpectron`, which says what to use instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from spectron_migrate.adapter.call_results import UNSAID
from spectron_migrate.adapter.catalogue import NoCatalogue
from spectron_migrate.adapter.core import AdapterCore
from spectron_migrate.adapter.mem0_calls import owners_of
from spectron_migrate.adapter.search_results import as_mem0, as_mem0_time, is_expired
from spectron_migrate.backoff import backoff_s
from spectron_migrate.errors import InputError, NotInSpectron, Unreachable
from spectron_migrate.ledger.bodies import fact_body
from spectron_migrate.mapping import NotServable
from spectron_migrate.records import Memory, Placement, Receipt, canonical_json, format_time

if TYPE_CHECKING:
    from spectron_migrate.spectron.api import SpectronApi
    from spectron_migrate.spectron.rows import OpenedSession
    from spectron_migrate.spectron.session import Session

OPEN_TRIES = 5
RETRY_S = 3600.0
"""For this long after a call raised, the same call counts as its retry.

Later, the same words count as a new statement, because the user may have said the opposite in between.
"""
MOST_FAILED = 1_000
"""How many calls that raised are remembered."""
INSTEAD = {
    "update": "add what is true now: Spectron supersedes the older fact by itself",
    "delete": "a SpectronClient session's `forget`, which forgets by meaning, or POST /scopes/forget for a whole scope",
    "delete_all": "POST /scopes/forget, which erases a scope with everything in it",
    "reset": "POST /scopes/forget, scope by scope",
    "get_all": "`search`, or the profile of a SpectronClient session",
    "get": "`search`",
    "history": "the history of an entity: GET /entities/{type}/{name}/history/{key}",
    "search": "`search` with plain ids, or a SpectronClient session's `recall`",
    "users": "GET /scopes, which lists them",
}


@dataclass
class _Open:
    """A session of one scope and run that this process writes to."""

    session: Session
    used: int = 0


@dataclass
class _Request:
    """One message of a call: the memory that it becomes, and how it is sent. A retry of the call reuses it."""

    memory: Memory
    placed: Placement
    opened: _Open | None = None
    """The session that it was sent to."""
    row: dict[str, Any] | None = None
    """What the caller gets for the message once it is stored."""


@dataclass
class _Failed:
    """A call that raised, and when (monotonic)."""

    requests: list[_Request]
    at: float


def not_in_spectron(method: str, why: str = "", beyond: Sequence[str] = ()) -> NotInSpectron:
    """The error for a call that only Mem0 could answer. `beyond`: the parts of a search that Spectron cannot answer."""
    instead = f"use {INSTEAD.get(method, 'Spectron by its own client (SpectronClient)')}"
    if tuple(beyond) == ("threshold",):
        instead = "use `search` without `threshold` and take the first `top_k`: Spectron's scores are on another scale"
    return NotInSpectron(f"Spectron cannot answer Mem0's {method}{f': {why}' if why else ''}", hint=instead)


class SpectronBackend:
    """One per adapter. `add` returns a future; the other calls answer directly."""

    def __init__(self, core: AdapterCore) -> None:
        """Opens nothing yet."""
        self._core = core
        self._open: dict[tuple[Any, ...], _Open] = {}
        self._locks: dict[tuple[int, str], asyncio.Lock] = {}
        self._registered: set[str] = set()
        self._failed: dict[tuple[int, str], _Failed] = {}
        """Calls that raised.

        If such a call is made again, it sends the same bytes, except for messages that are stored already.
        """

    # -- writing ------------------------------------------------------------------------------------------

    def add(self, messages: Any, kwargs: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Write each message once; the future's result has the form of Mem0's.

        Each message of a conversation becomes one memory, except system and tool messages. Spectron itself extracts
        from it. Raises InputError for anything but messages, and for memories that no rule maps.
        """
        self._core.refuse_if_closed()
        owners = self._core.calls.trimmed(owners_of(kwargs))
        texts = _texts(messages, unsaid=("system",) if kwargs.get("infer") is False else UNSAID)
        made = [_Request(*self._place(role, name, text, owners, kwargs)) for role, name, text in texts]
        call = (os.getpid(), canonical_json([_without_times(request) for request in made]))

        async def write(api: SpectronApi) -> dict[str, Any]:
            await asyncio.to_thread(self._core.mapping_check.refuse, owners, writes=True)
            requests = self._retried(call) or made
            try:
                return {"results": [await self._write(api, request) for request in requests]}
            except BaseException:
                self._failed[call] = _Failed(requests, self._core.now())
                while len(self._failed) > MOST_FAILED:
                    del self._failed[next(iter(self._failed))]
                raise

        return self._core.spectron_thread.run(write)

    def _retried(self, call: tuple[int, str]) -> list[_Request] | None:
        """The requests of the failed call that this call retries, if there is one."""
        failed = self._failed.pop(call, None)
        return failed.requests if failed is not None and self._core.now() - failed.at < RETRY_S else None

    def _place(
        self, role: str, name: str | None, text: str, owners: Mapping[str, str], kwargs: Mapping[str, Any]
    ) -> tuple[Memory, Placement]:
        now = format_time(datetime.now(UTC))
        expires = kwargs.get("expiration_date")
        memory = Memory(
            id=str(uuid.uuid4()),
            memory=text,
            user_id=owners.get("user_id"),
            agent_id=owners.get("agent_id"),
            run_id=owners.get("run_id"),
            app_id=owners.get("app_id"),
            actor_id=name,
            role=role,
            # Metadata that is not JSON must fail here, not after the write when the memory is recorded.
            metadata=json.loads(json.dumps(kwargs.get("metadata") or {}, default=str)),
            created_at=now,
            updated_at=now,
            text_at=now,
            expiration_date=str(expires) if expires is not None else None,
        )
        placed = self._core.mapping.map_memory(memory)
        if not isinstance(placed, Placement):
            why = getattr(placed, "why", None) or getattr(placed, "reason", "")
            raise InputError(f"no rule maps this memory: {why}", hint="give it a user_id, or add a rule")
        return memory, replace(placed, infer="none") if kwargs.get("infer") is False else placed

    async def _write(self, api: SpectronApi, request: _Request) -> dict[str, Any]:
        if request.row is not None:
            return request.row
        # Imported here because applications import this module long before they need a connection.
        from spectron_migrate.spectron.session import SessionEnded

        memory, placed = request.memory, request.placed
        # The facts of a lane are sent one after the other; a child process has sessions of its own.
        async with self._locks.setdefault((os.getpid(), placed.lane), asyncio.Lock()):
            try:
                stored = await self._send(api, request)
            except SessionEnded:
                if request.opened is None or request.opened.used < 2:
                    raise  # a new session would be refused in the same way
                request.opened = None
                stored = await self._send(api, request)
        given = replace(memory, id=stored.chunk_id or stored.turn_id or memory.id)
        row = {"id": given.id, "memory": given.memory, "event": "ADD", "role": given.role, "actor_id": given.actor_id}
        request.row = {name: value for name, value in row.items() if value is not None}
        # In another thread, so that a database that does not answer does not keep other calls from Spectron. The memory
        # is already stored: if the call is cancelled here and retried, it is not sent again.
        made = (stored.turn_id, stored.chunk_id, *stored.ids)
        await asyncio.to_thread(self._core.added.add, given, made, placed.selector)
        return request.row

    async def _send(self, api: SpectronApi, request: _Request) -> Receipt:
        """Send it to its session, or to the one that is open for its scope."""
        placed = request.placed
        if request.opened is None:
            request.opened = await self._session(api, placed)
            request.opened.used += 1
        opened = request.opened
        body = {**fact_body(request.memory, placed), "session_id": opened.session.id}
        try:
            return await opened.session.write(canonical_json(body).encode(), placed.infer)
        except BaseException:
            # It may have left a turn, which could not be told from the turn of another call in this session.
            self._open = {key: each for key, each in self._open.items() if each is not opened}
            raise

    async def _session(self, api: SpectronApi, placed: Placement) -> _Open:
        from spectron_migrate.spectron.session import Session

        key = (os.getpid(), placed.selector, placed.run)
        known = self._open.get(key)
        if known is None or known.used >= self._core.mapping.session_size:
            label = canonical_json(placed.selector)
            opened = await self._opened(api, placed)
            known = _Open(Session(api, opened.id, label, since=opened.server_now))
            self._open[key] = known
        return known

    async def _opened(self, api: SpectronApi, placed: Placement) -> OpenedSession:
        from spectron_migrate.spectron.scopes import ensure, paths_of
        from spectron_migrate.spectron.wire import InDoubt, NotBegun

        problem_text = ""
        for attempt in range(OPEN_TRIES):
            try:
                unknown = [path for path in paths_of(placed.selector) if path not in self._registered]
                if unknown:
                    await ensure(api, unknown)
                    self._registered.update(unknown)
                metadata = {"source": "mem0", **({"mem0_run": placed.run} if placed.run else {})}
                return await api.create_session(placed.selector, metadata)
            except (NotBegun, InDoubt) as problem:
                problem_text = problem.reason
            except Unreachable as problem:
                problem_text = problem.message
            if attempt < OPEN_TRIES - 1:
                await asyncio.sleep(backoff_s(attempt, first_s=0.25, longest_s=8.0, jitter=True))
        raise Unreachable(f"Spectron opened no session for {canonical_json(placed.selector)}: {problem_text}")

    def answer(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Any other method of Mem0: answered from the catalogue, or NotInSpectron."""
        if method == "get_all":
            return self.get_all(kwargs)
        memory_id = str(args[0] if args else kwargs.get("memory_id"))
        if method == "get":
            return self.get(memory_id)
        if method == "history":
            return self.history(memory_id)
        raise not_in_spectron(method)

    # -- reading memories by id ---------------------------------------------------------------------------

    def get(self, memory_id: str) -> dict[str, Any] | None:
        """A memory by its id from Mem0 or from `add`; None if Mem0 had deleted it.

        Raises NotInSpectron for an unknown id.
        """
        added = self._core.added.memory(memory_id)
        if added is not None:
            return as_mem0(added)
        try:
            known = self._core.catalogue.memory(memory_id)
        except NoCatalogue as error:
            raise not_in_spectron("get", str(error)) from None
        if known is None:
            raise not_in_spectron("get", f"memory {memory_id} is not in the migration's catalogue")
        memory, exists = known
        return as_mem0(memory) if exists and not is_expired(memory, _today()) else None

    def history(self, memory_id: str) -> list[dict[str, Any]]:
        """The texts of a memory, oldest first, in the form of Mem0's `history`; raises NotInSpectron as `get` does."""
        added = self._core.added.memory(memory_id)
        if added is not None:
            return [_event(memory_id, None, added.memory, "ADD", added.created_at)]
        try:
            known = self._core.catalogue.memory(memory_id)
            versions = self._core.catalogue.versions(memory_id)
        except NoCatalogue as error:
            raise not_in_spectron("history", str(error)) from None
        if known is None:
            raise not_in_spectron("history", f"memory {memory_id} is not in the migration's catalogue")
        events, before = [], None
        for version in versions:
            event = "ADD" if before is None else "UPDATE"
            events.append(_event(memory_id, before, version.text, event, version.text_at))
            before = version.text
        if not known[1]:
            events.append(_event(memory_id, before, None, "DELETE", None))
        return events

    def get_all(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The memories of these ids: those migrated, and those that adapters on this host have added since.

        Raises NotInSpectron if more than plain ids is asked for, or if there is no catalogue.
        """
        asked = self._core.calls.read(("",), {**kwargs})
        if asked is None or asked.beyond:
            raise not_in_spectron("get_all", ", ".join(asked.beyond) if asked else "the call is not one of Mem0's")
        self._core.mapping_check.refuse(asked.ids, writes=False)
        try:
            lens = self._core.mapping.lens(**dict(asked.ids))
            migrated = list(self._core.catalogue.memories_in(lens.selector))
        except (NoCatalogue, NotServable) as error:
            raise not_in_spectron("get_all", str(error)) from None
        each = {memory.id: memory for memory in (*migrated, *self._core.added.all_of(asked.ids))}
        matching = [memory for memory in each.values() if _matches(memory, asked.ids)]
        rows = [as_mem0(memory) for memory in matching if not is_expired(memory, _today())]
        return {"results": rows[: asked.top_k]}


def _texts(messages: Any, *, unsaid: Collection[str]) -> list[tuple[str, str | None, str]]:
    """Role, name and text of each message given to `add`, except for messages with a role in `unsaid`."""
    each = [messages] if isinstance(messages, str | Mapping) else messages
    if not isinstance(each, Sequence):
        raise InputError(f"messages are a text, a message or a list of them, not {type(messages).__name__}")
    found: list[tuple[str, str | None, str]] = []
    for message in each:
        given: Mapping[str, Any] = {"content": message} if isinstance(message, str) else message
        role, content = str(given.get("role") or "user"), given.get("content")
        if role in unsaid or content is None:
            continue
        if not isinstance(content, str):
            raise InputError("a message has no text", hint="images and other parts are not written to Spectron")
        if content.strip():
            found.append((role, given.get("name"), content))
    return found


def _without_times(request: _Request) -> list[Any]:
    """The part of a call that its retry has too."""
    memory = replace(request.memory, id="", created_at=None, updated_at=None, text_at=None)
    return [memory.to_json(), request.placed.selector, request.placed.infer]


def _event(memory_id: str, old: str | None, new: str | None, event: str, at: str | None) -> dict[str, Any]:
    row = {"memory_id": memory_id, "old_memory": old, "new_memory": new, "event": event}
    return {**row, "created_at": as_mem0_time(at), "updated_at": None, "is_deleted": int(event == "DELETE")}


def _matches(memory: Memory, ids: Mapping[str, str]) -> bool:
    return all(memory.entity_ids.get(name) == value for name, value in ids.items())


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
