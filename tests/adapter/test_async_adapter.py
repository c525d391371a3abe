"""The guide's adapter, as the guide uses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spectron_migrate import AsyncMemoryAdapter, SpectronClient
from spectron_migrate.adapter.search_results import SearchResults
from tests.adapter.support import Stage, ids, texts

pytestmark = pytest.mark.slow

TEA = "Prefers green tea over coffee in the morning"


def test_the_guides_example_runs_unchanged_but_for_the_import(stage: Stage) -> None:
    stage.say(TEA)

    async def example(mem0_client: Any, spectron_client: Any) -> Any:
        adapter = AsyncMemoryAdapter(mem0_client, spectron_client)
        results = await adapter.search("what to drink in the morning", user_id=stage.user, use_spectron=True)
        await adapter.close()
        return results

    client = SpectronClient(base_url=stage.server.base_url, api_key=stage.server.api_key)
    before = asyncio.run(example(stage.mem0, client))
    stage.to_spectron()
    after = asyncio.run(example(stage.mem0, client))
    assert f"- {TEA}" == before.formatted == after.formatted
    assert ids(before) == ids(after)


def test_what_was_added_is_found_with_and_without_the_flag(stage: Stage) -> None:
    async def run() -> None:
        adapter = stage.async_adapter()
        await adapter.add(TEA, stage.user, infer=False)
        for flag in (False, True):
            assert [TEA] == texts(await adapter.search("green tea", stage.user, flag))
        stage.start()
        await asyncio.to_thread(stage.catch_up)
        stage.shift(0)
        for flag in (False, True):
            assert [TEA] == texts(await adapter.search("green tea", stage.user, use_spectron=flag))
        assert {"mem0": 3, "spectron": 1} == adapter._core.counters.snapshot()["reads"]
        await adapter.add("Now drinks oolong tea", stage.user, infer=False)
        assert "Now drinks oolong tea" in texts(await adapter.search("oolong tea", stage.user, use_spectron=True))

    asyncio.run(run())


def test_a_reverted_cutover_outdoes_the_flag(stage: Stage) -> None:
    async def run() -> None:
        stage.say(TEA)
        await asyncio.to_thread(stage.to_spectron)
        stage.step("revert")
        adapter = stage.async_adapter()
        found = await adapter.search("green tea", stage.user, use_spectron=True)
        assert isinstance(found, SearchResults)
        assert {"mem0": 1} == adapter._core.counters.snapshot()["reads"]

    asyncio.run(run())


def test_an_asynchronous_client_is_awaited(stage: Stage) -> None:
    class Slow:
        """`AsyncMemory`'s interface over the same store."""

        async def add(self, messages: Any, *, user_id: str | None = None, **more: Any) -> Any:
            return stage.mem0.add(messages, user_id=user_id, **more)

        async def search(self, query: str, *, top_k: int = 20, filters: Any = None, **kwargs: Any) -> Any:
            return stage.mem0.search(query, top_k=top_k, filters=filters)

        async def get_all(self, *, filters: Any = None, top_k: int = 20, **kwargs: Any) -> Any:
            return stage.mem0.get_all(filters=filters)

    async def run() -> None:
        adapter = stage.async_adapter(Slow())
        told = await adapter.add(TEA, user_id=stage.user, infer=False)
        assert ids(told) == ids(await adapter.search("green tea", user_id=stage.user))
        assert ids(told) == ids(await adapter.get_all(user_id=stage.user))

    asyncio.run(run())


def test_the_event_loop_goes_on_while_mem0_works(stage: Stage) -> None:
    async def run() -> int:
        adapter = stage.async_adapter()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await adapter.add(TEA, stage.user, infer=False)
        counting.cancel()
        return turns

    assert asyncio.run(run()) > 2


def test_spectron_being_down_costs_no_answer(own_stage: Stage) -> None:
    stage = own_stage

    async def run() -> None:
        tea = stage.say(TEA)
        await asyncio.to_thread(stage.to_spectron)
        adapter = stage.async_adapter()
        assert [tea] == ids(await adapter.search("green tea", stage.user))
        stage.server.kill()
        for _ in range(5):
            assert [tea] == ids(await adapter.search("green tea", stage.user))
        assert {"spectron": 1, "failed": 3, "guarded": 2} == adapter._core.counters.snapshot()["reads"]

    asyncio.run(run())


def test_other_attributes_are_the_clients(stage: Stage) -> None:
    adapter = stage.async_adapter()
    assert stage.mem0.config is adapter.config
    with pytest.raises(AttributeError):
        adapter.no_such_thing  # noqa: B018 - that it raises is the point
