"""An idempotency key writes once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.local.support import SlowExtractor, Spectron, embedder, spectron

KEY = {"idempotency-key": "k-1"}


def turns(local: Spectron, session: str) -> list[str]:
    return [turn["content"] for turn in local.ok("GET", f"/sessions/{session}/turns")["turns"]]


@pytest.mark.every_generation
@pytest.mark.parametrize("path", ["/facts", "/facts/batch"])
def test_the_same_key_and_bytes_give_the_stored_answer(local: Spectron, path: str) -> None:
    session = local.ok("POST", "/sessions", {})["id"]
    body = {"session_id": session} | (
        {"text": "tea"} if path == "/facts" else {"messages": [{"role": "user", "content": "tea"}]}
    )

    first = local.call("POST", path, body, headers=KEY)
    again = local.call("POST", path, body, headers=KEY)

    assert first.raw == again.raw
    assert ["tea"] == turns(local, session)


@pytest.mark.every_generation
def test_the_same_key_with_other_bytes_is_409(local: Spectron) -> None:
    session = local.ok("POST", "/sessions", {})["id"]
    local.ok("POST", "/facts", {"text": "tea", "session_id": session}, headers=KEY)

    other = local.call("POST", "/facts", {"text": "coffee", "session_id": session}, headers=KEY)
    batch = local.call("POST", "/facts/batch", {"messages": [{"role": "user", "content": "tea"}]}, headers=KEY)

    assert [409, 409] == [other.status, batch.status]
    assert "different body" in other.body["message"]
    assert ["tea"] == turns(local, session)


def test_the_same_bytes_without_a_key_write_twice(local: Spectron) -> None:
    session = local.ok("POST", "/sessions", {})["id"]
    for _ in range(2):
        local.remember("tea", session_id=session)

    assert ["tea", "tea"] == turns(local, session)


def test_a_key_writes_again_after_24_hours(local: Spectron) -> None:
    session = local.ok("POST", "/sessions", {})["id"]
    body = {"text": "tea", "session_id": session}
    local.ok("POST", "/facts", body, headers=KEY)

    local.clock.advance(hours=23, minutes=59)
    local.ok("POST", "/facts", body, headers=KEY)
    assert ["tea"] == turns(local, session)
    local.clock.advance(minutes=2)
    local.ok("POST", "/facts", body, headers=KEY)
    assert ["tea", "tea"] == turns(local, session)


def test_a_key_belongs_to_its_principal() -> None:
    grants = {"memory:write": ["/*"], "memory:read": ["/*"]}
    with spectron(principals={"bot": {"key": "sk-bot", "grants": grants}}) as local:
        session = local.ok("POST", "/sessions", {})["id"]
        body = {"text": "tea", "session_id": session}
        local.ok("POST", "/facts", body, headers=KEY)
        local.ok("POST", "/facts", body, headers=KEY | {"authorization": "Bearer sk-bot"})

        assert ["tea", "tea"] == turns(local, session)


@pytest.mark.every_generation
def test_a_refused_write_releases_its_key(local: Spectron) -> None:
    body = {"text": "tea", "scopes": [["user/alice"]]}
    refused = local.call("POST", "/facts", body, headers=KEY)
    local.register("user/alice")

    assert 400 == refused.status
    assert 200 == local.call("POST", "/facts", body, headers=KEY).status


def test_a_key_in_flight_is_409_until_its_write_ends() -> None:
    extractor = SlowExtractor()
    with spectron(extractor=extractor) as local:
        session = local.ok("POST", "/sessions", {})["id"]
        body = {"text": "tea", "session_id": session}

        async def overlap() -> list[int]:
            first = asyncio.create_task(local.exchange("POST", "/facts", body, headers=KEY))
            await extractor.began.wait()
            second = await local.exchange("POST", "/facts", body, headers=KEY)
            extractor.let_go.set()
            third = await first
            return [second.status, third.status]

        assert [409, 200] == local.loop.run_until_complete(overlap())
        assert 200 == local.call("POST", "/facts", body, headers=KEY).status
        assert ["tea"] == turns(local, session)


def test_a_write_that_fails_with_500_releases_its_key_and_stores_nothing() -> None:
    extractor = SlowExtractor()
    extractor.let_go.set()
    extractor.failure = RuntimeError("broken")
    with spectron(extractor=extractor) as local:
        session = local.ok("POST", "/sessions", {})["id"]
        body = {"text": "tea", "session_id": session}
        # The document declares no 500 here, and no server can promise there is none.
        broken = local.loop.run_until_complete(_unchecked(local, body))
        extractor.failure = None

        assert (500, b'{"message":"unknown error"}') == broken
        assert [] == turns(local, session)
        local.ok("POST", "/facts", body, headers=KEY)
        assert ["tea"] == turns(local, session)


async def _unchecked(local: Spectron, body: object) -> tuple[int, bytes]:
    local.checked = False
    try:
        answer = await local.exchange("POST", "/facts", body, headers=KEY)
        return answer.status, answer.raw
    finally:
        local.checked = True


def test_keys_sessions_and_turns_outlive_a_restart(tmp_path: Path) -> None:
    with spectron(data=tmp_path) as local:
        local.register("user/alice")
        session = local.ok("POST", "/sessions", {"scopes": [["user/alice"]]})["id"]
        body = {"text": "Lives in Berlin", "session_id": session}
        first = local.call("POST", "/facts", body, headers=KEY)
    with spectron(data=tmp_path) as local:
        again = local.call("POST", "/facts", body, headers=KEY)

        assert first.raw == again.raw
        assert ["Lives in Berlin"] == turns(local, session)
        assert ["Lives in Berlin"] == local.passages("Berlin", lens=[["user/alice"]])
        assert [("Berlin", True)] == local.history("lives_in")


class Fragile:
    """An embedder that fails on one text, in the middle of the transaction that stores its fact."""

    def __init__(self) -> None:
        self.dimensions = embedder().dimensions

    def embed(self, texts: Sequence[str]) -> list[Any]:
        """Fail on a fact about glass."""
        if any(text.startswith("user") and "glass" in text for text in texts):
            raise RuntimeError("broken")
        return embedder().embed(texts)


def test_a_failing_write_does_not_affect_the_writes_grouped_with_it() -> None:
    with spectron(embedder=Fragile()) as local:
        local.checked = False
        session = local.ok("POST", "/sessions", {})["id"]
        things = ["tea", "chess", "glass", "rain"]

        async def together() -> list[int]:
            writes = [
                local.exchange("POST", "/facts", {"text": f"Likes {thing}", "session_id": session}) for thing in things
            ]
            return [answer.status for answer in await asyncio.gather(*writes)]

        assert [200, 200, 500, 200] == local.loop.run_until_complete(together())
        assert ["Likes tea", "Likes chess", "Likes rain"] == turns(local, session)
        assert {"Likes tea", "Likes chess", "Likes rain"} == set(local.passages("likes"))
        assert 404 != local.call("GET", "/entities/person/user").status
        assert [1, 2, 3] == [turn["seq"] for turn in local.ok("GET", f"/sessions/{session}/turns")["turns"]]
