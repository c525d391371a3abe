"""`AsyncMemoryAdapter`: the adapter of the published guide, for synchronous and asynchronous Mem0 clients."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from spectron_migrate.adapter import mem0_signatures as mem0
from spectron_migrate.adapter.after_complete import not_in_spectron
from spectron_migrate.adapter.base import AdapterBase
from spectron_migrate.adapter.core import SearchPlan
from spectron_migrate.adapter.mem0_methods import WRITES, details_of
from spectron_migrate.adapter.mem0_signatures import awaited_as
from spectron_migrate.adapter.search_results import SearchResults

T = TypeVar("T")


class AsyncMemoryAdapter(AdapterBase):
    """The thin adapter of the published guide. No memory is lost if one side is down.

        adapter = AsyncMemoryAdapter(Memory(), SpectronClient(base_url=…, api_key=…))
        await adapter.add("I prefer vegetarian food.", user_id="alice")
        await adapter.search("What does Alice eat?", user_id="alice")

    Memories are written to Mem0; the migration brings them to Spectron, by following or through the outbox. The routing
    decides which system answers a search. A synchronous client is called in a thread, so that the event loop is never
    blocked.
    """

    @awaited_as(mem0.add_awaited)
    async def add(self, messages: Any = None, user_id: Any = None, **kwargs: Any) -> Any:
        """Remember something; further keywords are those of Mem0's `add`. The guide calls the first one `content`."""
        core = self._core
        messages = kwargs.pop("content", None) if messages is None else messages
        options, given = _guided(user_id, kwargs)
        if core.is_complete():
            named = core.calls.named("add", (messages, *options), given)
            return await asyncio.wrap_future(self._backend.add(messages, named))
        async with self._writing("add", (messages, *options), given) as answered:
            answer = await self._call("add", messages, *options, **given)
            answered(answer)
        return answer

    @awaited_as(mem0.search_awaited)
    async def search(self, query: Any, user_id: Any = None, use_spectron: bool = False, **kwargs: Any) -> Any:
        """Search in Mem0's form. The routing decides whether Mem0 or Spectron answers.

        `use_spectron`: ask Spectron for this search whatever the percentage, if reads are being shifted and all
        memories of this user are there. The answer has `formatted` as well, from either system.
        """
        core = self._core
        options, given = _guided(user_id, kwargs)
        fitted = core.calls.fit("search", (query, *options), given)
        plan = await self._beside(core.plan, (query, *options), fitted, wanted=use_spectron)
        found = await (self._from_backend(plan) if plan.complete else self._from_spectron(plan))
        if found is not None:
            return found if use_spectron else core.calls.shaped(found)
        answer = await self._call("search", query, *options, **fitted)
        core.answered(plan, answer)
        if isinstance(answer, dict):
            return SearchResults(answer)
        return SearchResults(results=answer) if use_spectron else answer

    @awaited_as(mem0.get)
    async def get(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `get`: one memory by its id."""
        return await self._counted("get", args, kwargs)

    @awaited_as(mem0.get_all)
    async def get_all(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `get_all`: the memories of some ids."""
        return await self._counted("get_all", args, kwargs)

    @awaited_as(mem0.update)
    async def update(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `update`; raises NotInSpectron once the cutover is complete."""
        return await self._counted("update", args, kwargs)

    @awaited_as(mem0.delete)
    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `delete`; raises NotInSpectron once the cutover is complete."""
        return await self._counted("delete", args, kwargs)

    @awaited_as(mem0.delete_all)
    async def delete_all(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `delete_all`; raises NotInSpectron once the cutover is complete."""
        return await self._counted("delete_all", args, kwargs)

    @awaited_as(mem0.history)
    async def history(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `history`: the texts that a memory had."""
        return await self._counted("history", args, kwargs)

    @awaited_as(mem0.reset)
    async def reset(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `reset`; raises NotInSpectron once the cutover is complete."""
        return await self._counted("reset", args, kwargs)

    async def close(self) -> None:
        """Write the last status and close the adapter's threads, files and connections; the clients stay open."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> AsyncMemoryAdapter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _counting(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._counted(name, args, kwargs)

    async def _counted(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that has no equivalent in Spectron: counted, and after `complete` answered from the catalogue."""
        core = self._core
        kwargs = core.calls.fit(name, args, kwargs)
        core.heartbeat.begin()
        if core.is_complete():
            return await asyncio.to_thread(self._backend.answer, name, args, kwargs)
        core.counters.call(name, details_of(name, kwargs))
        if name not in WRITES:
            return await self._call(name, *args, **kwargs)
        async with self._writing(name, args, kwargs) as answered:
            answer = await self._call(name, *args, **kwargs)
            answered(answer)
        return answer

    @asynccontextmanager
    async def _writing(self, name: str, args: Any, kwargs: Any) -> AsyncIterator[Callable[[Any], None]]:
        """The core's `writing`."""
        write = self._core.writing(name, args, kwargs)
        answered = await self._beside(write.__enter__)
        try:
            yield answered
        except BaseException as error:
            await self._beside(write.__exit__, type(error), error, error.__traceback__)
            raise
        await self._beside(write.__exit__, None, None, None)

    async def _beside(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call that may ask a database in a thread, so that it does not block the event loop."""
        if self._core.is_remote:
            return await asyncio.to_thread(function, *args, **kwargs)
        return function(*args, **kwargs)

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


def _guided(user_id: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The guide gives the user's id as the second argument; hosted clients give their options there."""
    if user_id is None:
        return (), kwargs
    return ((), {**kwargs, "user_id": user_id}) if isinstance(user_id, str | int) else ((user_id,), kwargs)
