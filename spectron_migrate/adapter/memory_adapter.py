"""`MemoryAdapter`: what an application imports in place of its Mem0 client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spectron_migrate.adapter import mem0_signatures as mem0
from spectron_migrate.adapter.after_complete import not_in_spectron
from spectron_migrate.adapter.base import AdapterBase
from spectron_migrate.adapter.core import SearchPlan
from spectron_migrate.adapter.mem0_methods import WRITES, details_of
from spectron_migrate.adapter.mem0_signatures import typed_as
from spectron_migrate.adapter.search_results import SearchResults


class MemoryAdapter(AdapterBase):
    """Mem0's own interface, for `Memory` and `MemoryClient` of every generation.

        memory = MemoryAdapter(Memory.from_config(config))
        memory.add("I prefer vegetarian food.", user_id="alice")
        memory.search("What does Alice eat?", user_id="alice")["results"]

    Until the cutover is complete every call goes to Mem0, except for searches that the routing sends to Spectron; their
    results have Mem0's form. Afterwards Spectron answers; calls that it cannot answer raise NotInSpectron. All other
    attributes are those of the wrapped client.
    """

    @typed_as(mem0.search)
    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `search`, of either generation. The routing decides whether Mem0 or Spectron answers."""
        core = self._core
        kwargs = core.calls.fit("search", args, kwargs)
        plan = core.plan(args, kwargs)
        if plan.complete:
            return self._from_backend(plan)
        if plan.to_spectron:
            found = self._from_spectron(plan)
            if found is not None:
                return core.calls.shaped(found)
        answer = self.mem0.search(*args, **kwargs)
        core.answered(plan, answer)
        return answer

    @typed_as(mem0.add)
    def add(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `add`; once the cutover is complete it writes to Spectron, each message once."""
        core = self._core
        if core.is_complete():
            return self._backend.add(messages, core.calls.named("add", (messages, *args), kwargs)).result()
        with core.writing("add", (messages, *args), kwargs) as answered:
            answer = self.mem0.add(messages, *args, **kwargs)
            answered(answer)
        return answer

    @typed_as(mem0.get)
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `get`: one memory by its id."""
        return self._counted("get", args, kwargs)

    @typed_as(mem0.get_all)
    def get_all(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `get_all`: the memories of some ids."""
        return self._counted("get_all", args, kwargs)

    @typed_as(mem0.update)
    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `update`; raises NotInSpectron once the cutover is complete."""
        return self._counted("update", args, kwargs)

    @typed_as(mem0.delete)
    def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `delete`; raises NotInSpectron once the cutover is complete."""
        return self._counted("delete", args, kwargs)

    @typed_as(mem0.delete_all)
    def delete_all(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `delete_all`; raises NotInSpectron once the cutover is complete."""
        return self._counted("delete_all", args, kwargs)

    @typed_as(mem0.history)
    def history(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `history`: the texts that a memory had."""
        return self._counted("history", args, kwargs)

    @typed_as(mem0.reset)
    def reset(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `reset`; raises NotInSpectron once the cutover is complete."""
        return self._counted("reset", args, kwargs)

    def close(self) -> None:
        """Write the last status, close threads, files and connections, and close the client if it has `close`."""
        self._core.close()
        close = getattr(self.mem0, "close", None)
        if callable(close):
            close()

    def __enter__(self) -> MemoryAdapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _counting(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._counted(name, args, kwargs)

    def _counted(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that has no equivalent in Spectron: counted, and after `complete` answered from the catalogue."""
        core = self._core
        kwargs = core.calls.fit(name, args, kwargs)
        core.heartbeat.begin()
        if core.is_complete():
            return self._backend.answer(name, args, kwargs)
        method = getattr(self.mem0, name)
        core.counters.call(name, details_of(name, kwargs))
        if name not in WRITES:
            return method(*args, **kwargs)
        with core.writing(name, args, kwargs) as answered:
            answer = method(*args, **kwargs)
            answered(answer)
        return answer

    def _from_spectron(self, plan: SearchPlan) -> SearchResults | None:
        """Spectron's answer; None, counted, if Mem0 has to answer."""
        core = self._core
        future = core.ask(plan)
        if future is None:
            return None
        began = core.now()
        try:
            answer = future.result(core.patience_s + 0.5)
            found = core.found(plan, answer)
        except Exception as error:
            future.cancel()
            core.failed(error, core.now() - began)
            return None
        core.succeeded(core.now() - began)
        return found

    def _from_backend(self, plan: SearchPlan) -> Any:
        core = self._core
        if plan.asked is not None:
            core.mapping_check.refuse(plan.asked.ids, writes=False)
        if not plan.to_spectron:
            raise not_in_spectron("search", plan.why_not, plan.asked.beyond if plan.asked else ())
        future = core.ask(plan)
        assert future is not None  # noqa: S101 - it raises instead
        return core.calls.shaped(core.found(plan, future.result(), core.added.made_of))
