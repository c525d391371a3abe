"""What the typed operations read of the answers of each generation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from spectron_migrate.records import Hit
from spectron_migrate.spectron.api import SpectronApi
from tests.support.here import server_here


def hits(server: RunningServer, text: str) -> tuple[Hit, ...]:
    """What a query for the text finds."""

    async def run() -> tuple[Hit, ...]:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            found = await api.query(text, lens=(("user/alice",),), k=5, mode="bm25", include=("passages",))
            return found.hits

    return asyncio.run(run())


def written(server: RunningServer, text: str) -> str:
    """Write a text for alice; the id of its session."""

    async def run() -> str:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key) as api:
            await api.register_scope("user/alice")
            opened = await api.create_session((("user/alice",),))
            body = {"text": text, "infer": "none", "session_id": opened.id}
            await api.exchange("POST", "/facts", body)
            return opened.id

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("api", "hits_name_turn", "names"),
    [("0.0.0", True, (False, False)), ("0.2.1", True, (True, True)), ("0.2.1", False, (True, False))],
)
def test_a_hit_names_its_session_and_turn_where_the_generation_does(
    tmp_path: Path, api: str, names: tuple[bool, bool], *, hits_name_turn: bool
) -> None:
    with server_here(tmp_path, api=api, reading={"hits_name_turn": hits_name_turn}) as server:
        session = written(server, "Likes chess")

        (hit,) = hits(server, "chess")

    assert names == (hit.session_id == session, hit.turn_id is not None)
