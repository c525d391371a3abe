"""What is certain about a request afterwards."""

from __future__ import annotations

import asyncio

import pytest

from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.wire import InDoubt, NotBegun


def test_only_a_refused_connection_proves_that_nothing_was_sent() -> None:
    async def post(endpoint: str) -> None:
        async with SpectronApi(endpoint, "c", api_key="k", timeout_s=5) as api:
            await api.post_fact(b"{}", key="k")

    async def cut() -> None:
        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(NotBegun):
        asyncio.run(post("http://127.0.0.1:9"))
    with pytest.raises(InDoubt):
        asyncio.run(cut())
