"""`AsyncMemoryAdapter`: the adapter of the published guide, for synchronous and asynchronous Mem0 clients."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron_migrate.adapter.after_complete import SpectronBackend, not_in_spectron
from spectron_migrate.adapter.core import AdapterCore, SearchPlan
from spectron_migrate.adapter.mem0_methods import COUNTED, WRITES, details_of
from spectron_migrate.adapter.search_results import SearchResults


class AsyncMemoryAdapter:
    """The thin adapter of the published guide; nothing is lost when one side is down.

        adapter = AsyncMemoryAdapter(Memory(), SpectronClient(base_url=…, api_key=…))
        await adapter.add("I prefer vegetarian food.", user_id="alice")
        await adapter.search("What does Alice eat?", user_id="alice")

    Memories are written to Mem0 and brought to Spectron as the migration is set up; searches are answered as the
    routing says. A synchronous client is called in a thread, so that the event loop is never blocked.
    """

    def __init__(
        self,
        mem0_client: Any,
        spectron_client: Any | None = None,
        *,
        config: str | Path | None = None,
        state: str | Path | None = None,
        mapping: str | Path | None = None,
        routing: str | Path | None = None,
    ) -> None:
        """As `MemoryAdapter`; `mem0_client` may also be an `AsyncMemory` or `AsyncMemoryClient`."""
        self.mem0 = mem0_client
        self.spectron = spectron_client
        self._core = AdapterCore(
            mem0_client, spectron_client, config=config, state=state, mapping=mapping, routing=routing
        )
        self._backend = SpectronBackend(self._core)

    async def add(self, content: Any, user_id: str | None = None, **kwargs: Any) -> Any:
        """Remember something; further keywords are those of Mem0's `add`."""
        core = self._core
        given = {**kwargs, **({"user_id": user_id} if user_id is not None else {})}
        if core.is_complete():
            return await asyncio.wrap_future(self._backend.add(content, given))
        with core.writing("add", (content,), given) as answered:
            answer = await self._call("add", content, **given)
            answered(answer)
        return answer

    async def search(self, query: str, user_id: str | None = None, use_spectron: bool = False, **kwargs: Any) -> Any:
        """Search in Mem0's shape, answered by Mem0 or by Spectron, as the routing says.

        `use_spectron`: ask Spectron for this search whatever the percentage, while reads are being shifted and all
        memories of this user are there. The answer then has `formatted` as well, from either system.
        """
        core = self._core
        given = {**kwargs, **({"user_id": user_id} if user_id is not None else {})}
        fitted = core.calls.fit("search", (query,), given)
        plan = core.plan((query,), fitted, wanted=use_spectron)
        found = await (self._from_backend(plan) if plan.complete else self._from_spectron(plan))
        if found is not None:
            return found if use_spectron else core.calls.shaped(found)
        answer = await self._call("search", query, **fitted)
        core.answered(plan, answer)
        return _as_found(answer) if use_spectron else answer

    async def close(self) -> None:
        """Write the last status and close the adapter's threads, files and connections; the clients stay open."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> AsyncMemoryAdapter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Any:
        """Mem0's other calls, to be awaited; other attributes are the wrapped client's."""
        if name.startswith("__") or name in ("mem0", "_core"):
            raise AttributeError(name)
        found = getattr(self.mem0, name)
        return self._counting(name) if name in COUNTED else found

    def __repr__(self) -> str:
        return f"AsyncMemoryAdapter({type(self.mem0).__name__}, phase={self._core.routing.current().phase!r})"

    def _counting(self, name: str) -> Callable[..., Any]:
        core = self._core

        async def call(*args: Any, **kwargs: Any) -> Any:
            kwargs = core.calls.fit(name, args, kwargs)
            core.heartbeat.begin()
            if core.is_complete():
                return await asyncio.to_thread(self._backend.answer, name, args, kwargs)
            core.counters.call(name, details_of(name, kwargs))
            if name not in WRITES:
                return await self._call(name, *args, **kwargs)
            with core.writing(name, args, kwargs) as answered:
                answer = await self._call(name, *args, **kwargs)
                answered(answer)
            return answer

        return call

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(self.mem0, name)
        if inspect.iscoroutinefunction(method):
            return await method(*args, **kwargs)
        answer = await asyncio.to_thread(method, *args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    async def _from_spectron(self, plan: SearchPlan) -> SearchResults | None:
        core = self._core
        future = core.ask(plan) if plan.to_spectron else None
        if future is None:
            return None
        began = core.now()
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(future), core.patience_s + 0.5)
            found = await asyncio.to_thread(core.found, plan, answer)
        except Exception as error:
            core.failed(error, core.now() - began)
            return None
        core.succeeded(core.now() - began)
        return found

    async def _from_backend(self, plan: SearchPlan) -> SearchResults:
        core = self._core
        if plan.asked is not None:
            await asyncio.to_thread(core.mapping_check.refuse, plan.asked.ids, writes=False)
        future = core.ask(plan) if plan.to_spectron else None
        if future is None:
            raise not_in_spectron("search", plan.why_not, plan.asked.beyond if plan.asked else ())
        answer = await asyncio.wrap_future(future)
        return await asyncio.to_thread(core.found, plan, answer, core.added.made_of)


def _as_found(answer: Any) -> SearchResults:
    return SearchResults(answer) if isinstance(answer, dict) else SearchResults(results=answer)
