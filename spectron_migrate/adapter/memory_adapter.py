"""`MemoryAdapter`: what an application imports in place of its Mem0 client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron_migrate.adapter.after_complete import SpectronBackend, not_in_spectron
from spectron_migrate.adapter.core import AdapterCore, SearchPlan
from spectron_migrate.adapter.mem0_methods import COUNTED, WRITES, details_of
from spectron_migrate.adapter.search_results import SearchResults


class MemoryAdapter:
    """Mem0's own interface, for `Memory` and `MemoryClient` of every generation.

        memory = MemoryAdapter(Memory.from_config(config))
        memory.add("I prefer vegetarian food.", user_id="alice")
        memory.search("What does Alice eat?", user_id="alice")["results"]

    Until the cutover is complete every call goes to Mem0, except for searches that the routing sends to Spectron;
    their results have Mem0's form. Afterwards Spectron answers, and what it cannot do raises NotInSpectron. All other
    attributes are those of the wrapped client.
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
        """Wrap a client; sends no request and writes no file.

        Args:
            mem0_client: the application's `Memory` or `MemoryClient`.
            spectron_client: a `SpectronClient`; without one the settings say where Spectron is.
            config: the settings file; by default `spectron-migrate.yaml` if it is there, and the environment.
            state: the migration's state directory, instead of the settings'.
            mapping: the mapping file, instead of the settings'.
            routing: file or https address of `routing.json`; by default it lies in the state directory.

        Raises:
            InputError: settings or mapping are invalid.
        """
        self._mem0 = mem0_client
        self._core = AdapterCore(
            mem0_client, spectron_client, config=config, state=state, mapping=mapping, routing=routing
        )
        self._backend = SpectronBackend(self._core)
        self._made: dict[str, Callable[..., Any]] = {}

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `search`, of either generation: answered by Mem0 or by Spectron, as the routing says."""
        core = self._core
        kwargs = core.calls.fit("search", args, kwargs)
        plan = core.plan(args, kwargs)
        if plan.complete:
            return self._from_backend(plan)
        if plan.to_spectron:
            found = self._from_spectron(plan)
            if found is not None:
                return core.calls.shaped(found)
        answer = self._mem0.search(*args, **kwargs)
        core.answered(plan, answer)
        return answer

    def add(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Mem0's `add`; once the cutover is complete it writes to Spectron, each message once."""
        core = self._core
        if core.is_complete():
            return self._backend.add(messages, core.calls.named("add", (messages, *args), kwargs)).result()
        with core.writing("add", (messages, *args), kwargs) as answered:
            answer = self._mem0.add(messages, *args, **kwargs)
            answered(answer)
        return answer

    def close(self) -> None:
        """Write the last status, close threads, files and connections, and close the client if it has `close`."""
        self._core.close()
        close = getattr(self._mem0, "close", None)
        if callable(close):
            close()

    def __enter__(self) -> MemoryAdapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the wrapped client's; calls that Spectron cannot answer are counted."""
        if name.startswith("__") or name == "_mem0":
            raise AttributeError(name)
        made = self._made.get(name)
        if made is None:
            if name not in COUNTED:
                return getattr(self._mem0, name)
            made = self._made[name] = self._counting(name, getattr(self._mem0, name))
        return made

    def __repr__(self) -> str:
        return f"MemoryAdapter({type(self._mem0).__name__}, phase={self._core.routing.current().phase!r})"

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        core = self._core

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs = core.calls.fit(name, args, kwargs)
            core.heartbeat.begin()
            if core.is_complete():
                return self._backend.answer(name, args, kwargs)
            core.counters.call(name, details_of(name, kwargs))
            if name not in WRITES:
                return method(*args, **kwargs)
            with core.writing(name, args, kwargs) as answered:
                answer = method(*args, **kwargs)
                answered(answer)
            return answer

        return call

    def _from_spectron(self, plan: SearchPlan) -> SearchResults | None:
        """Spectron's answer; None if Mem0 has to answer, which is counted."""
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
