"""What the typed operations read of the answers of each generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError, Unreachable
from spectron_migrate.local.engine import API_VERSIONS
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.records import Hit
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.rows import Turn
from spectron_migrate.spectron.wire import NotBegun
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import forged


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
    [("0.0.0", True, (False, False)), ("0.2.1", False, (True, False)), ("0.3.0", True, (True, True))],
)
def test_a_hit_names_its_session_and_turn_where_the_generation_does(
    tmp_path: Path, api: str, names: tuple[bool, bool], *, hits_name_turn: bool
) -> None:
    with server_here(tmp_path, api=api, reading={"hits_name_turn": hits_name_turn}) as server:
        session = written(server, "Likes chess")

        (hit,) = hits(server, "chess")

    assert names == (hit.session_id == session, hit.turn_id is not None)


def test_a_context_id_that_the_server_cannot_read_is_an_error_of_the_settings(tmp_path: Path) -> None:
    async def run(server: RunningServer) -> None:
        async with SpectronApi(server.base_url, "a~b", api_key=server.api_key) as api:
            await api.me()

    with server_here(tmp_path) as server, pytest.raises(InputError, match="takes no context a~b"):
        asyncio.run(run(server))


@pytest.mark.parametrize("api", API_VERSIONS)
def test_every_call_waits_and_asks_again_after_503(tmp_path: Path, api: str) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async def run(url: str, server: RunningServer) -> None:
        async with SpectronApi(url, server.context, api_key=server.api_key, sleep=note) as client:
            await client.me()
            await client.scopes()
            await client.forget("nothing", dry_run=False)
            await client.query("tea", lens=(("user/alice",),), k=1)
            with pytest.raises(NotBegun, match="503"):
                await client.create_session((("user/alice",),))

    busy: set[str] = set()

    def once(seen: Seen) -> Fault:
        first = seen.path not in busy
        busy.add(seen.path)
        return refusing(503, "too many requests in flight", "7") if first else "none"

    with server_here(tmp_path, api=api) as server, misbehaving(server.base_url, once) as proxy:
        asyncio.run(run(proxy.base_url, server))

    assert [7.0] * 4 == waits


@pytest.mark.parametrize(("told", "problem"), [(True, "lists 1 of 2 turns"), (False, "")])
def test_a_listing_with_fewer_turns_than_the_server_counts_is_an_error(
    tmp_path: Path, problem: str, *, told: bool
) -> None:
    """Asked for only where the server is known to count: the older generations have no such parameter."""

    def one_more(seen: Seen, body: bytes) -> bytes | None:
        return body.replace(b'"totalSize":1', b'"totalSize":2') if seen.path.endswith("/turns") else None

    async def listed(url: str, server: RunningServer, session: str) -> int:
        async with SpectronApi(url, server.context, api_key=server.api_key, sleep=no_wait) as api:
            if told:
                await api.generation()
            return len(await api.turns(session))

    with server_here(tmp_path) as server, misbehaving(server.base_url) as proxy:
        session = written(server, "Likes chess")
        proxy.change = one_more  # type: ignore[method-assign]
        if not problem:
            assert 1 == asyncio.run(listed(proxy.base_url, server, session))
            return
        with pytest.raises(Unreachable, match=problem):
            asyncio.run(listed(proxy.base_url, server, session))


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


NUMBERED: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "as strings": lambda turns: [{**turn, "seq": str(turn["seq"])} for turn in turns],
    "as strings, newest first": lambda turns: [{**turn, "seq": str(turn["seq"])} for turn in reversed(turns)],
    "as fractions": lambda turns: [{**turn, "seq": float(turn["seq"])} for turn in turns],
    "all 0": lambda turns: [{**turn, "seq": 0} for turn in turns],
    "not at all": lambda turns: [{**turn, "seq": None} for turn in turns],
    "not at all, newest first": lambda turns: [{**turn, "seq": None} for turn in reversed(turns)],
    "one not": lambda turns: [{**turn, "seq": turn["seq"] if at else None} for at, turn in enumerate(turns)],
    "not at all, newest first, in milliseconds": lambda turns: [
        {**turn, "seq": None, "createdAt": 1767225600000 + 1000 * at} for at, turn in reversed(list(enumerate(turns)))
    ],
    "not at all, by id": lambda turns: [{**turn, "seq": None} for turn in sorted(turns, key=lambda turn: turn["id"])],
}


@pytest.mark.parametrize("how", NUMBERED)
def test_turns_have_rising_numbers_however_the_server_numbers_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def renumbered(seen: Seen, body: bytes) -> bytes | None:
        if "/turns" not in seen.path:
            return None
        listing = json.loads(body)
        times = [{**turn, "createdAt": f"2026-01-01T00:00:{at:02d}Z"} for at, turn in enumerate(listing["turns"])]
        return json.dumps({**listing, "turns": NUMBERED[how](times)}).encode()

    async def run(base_url: str, server: RunningServer) -> list[Turn]:
        async with SpectronApi(base_url, server.context, api_key=server.api_key) as api:
            await api.register_scope("user/alice")
            opened = await api.create_session((("user/alice",),))
            for number in range(12):
                body = {"text": f"text {number}", "infer": "none", "session_id": opened.id}
                await api.exchange("POST", "/facts", body)
            return await api.turns(opened.id)

    forged(monkeypatch, renumbered)
    with server_here(tmp_path) as server, misbehaving(server.base_url) as proxy:
        turns = asyncio.run(run(proxy.base_url, server))
    assert [f"text {number}" for number in range(12)] == [
        turn.content for turn in sorted(turns, key=lambda turn: turn.seq)
    ]
    assert 12 == len({turn.seq for turn in turns})
