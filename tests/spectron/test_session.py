"""The client an application imports: the guide's example, and never wider than its session."""

from __future__ import annotations

import asyncio
import http.server
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from spectron_migrate import SpectronClient
from spectron_migrate.errors import InputError, KeyRefused, NotLegal, Unreachable
from spectron_migrate.local.testing import RunningServer, running_server
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.spectron import turns_of

T = TypeVar("T")


async def nap(_: float) -> None:
    await asyncio.sleep(0)


def client(server: RunningServer, *, base_url: str | None = None, api_key: str | None = None) -> SpectronClient:
    return SpectronClient(
        base_url=base_url or server.base_url, api_key=api_key or server.api_key, context=server.context, sleep=nap
    )


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def body() -> T:
        return await work()

    return asyncio.run(body())


def test_the_guides_example_runs_with_our_import_and_a_context(spectron: RunningServer) -> None:
    base_url, api_key, context = spectron.base_url, spectron.api_key, spectron.context

    async def example() -> Any:
        client = SpectronClient(base_url=base_url, api_key=api_key, context=context)

        async with client.sessions.create(scope={"user": "alice"}) as session:
            await session.remember("I prefer vegetarian food.")
            results = await session.recall("What are Alice's food preferences?", top_k=5)
            print(results.formatted)
        return results

    results = asyncio.run(example())
    assert any("vegetarian" in hit.text for hit in results.hits)
    assert "vegetarian" in results.formatted


def test_leaving_the_block_sends_nothing_and_keeps_the_turns(spectron: RunningServer, user: str) -> None:
    with misbehaving(spectron.base_url) as proxy:

        async def work() -> None:
            async with client(spectron, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
                await session.remember("kept")
                sent = len(proxy.seen)
            assert sent == len(proxy.seen)

        run(work)
        assert "DELETE" not in {seen.method for seen in proxy.seen}
    assert ["kept"] == [turn.content for turn in turns_of(spectron, user)]


def test_turns_of_a_conversation_keep_their_roles(spectron: RunningServer, user: str) -> None:
    async def work() -> None:
        async with client(spectron).sessions.create(scope={"user": user}) as session:
            await session.add_turn(role="user", content="Where is my order?")
            await session.add_turn(role="assistant", content="It is on its way.")

    run(work)
    with sqlite3.connect(f"{spectron.database.as_uri()}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT role FROM turns WHERE scopes LIKE ? ORDER BY seq", (f"%user/{user}/%",)).fetchall()
    db.close()
    assert [("user",), ("assistant",)] == rows


def test_a_session_reads_its_node_and_what_is_below_and_nothing_beside(spectron: RunningServer, user: str) -> None:
    async def work() -> list[list[str]]:
        one = client(spectron)
        async with one, one.sessions.create(scope={"user": user, "agent": "cook"}) as below:
            await below.remember("the secret ingredient is saffron", infer="none")
            async with one.sessions.create(scope={"user": f"{user}x"}) as beside:
                await beside.remember("the secret ingredient is cumin", infer="none")
            async with one.sessions.create(scope={"user": user}) as session:
                hits = (await session.recall("secret ingredient")).hits
                context = await session.context("secret ingredient")
                return [[hit.text for hit in hits], [context]]

    found, context = run(work)
    assert ["the secret ingredient is saffron"] == found
    assert "saffron" in context[0]
    assert "cumin" not in context[0]


def test_profile_and_forget_are_refused_where_the_key_reaches_wider(spectron: RunningServer, user: str) -> None:
    async def work(call: str) -> None:
        async with client(spectron).sessions.create(scope={"user": user}) as session:
            await (session.profile() if call == "profile" else session.forget("anything"))

    for call in ("profile", "forget"):
        with pytest.raises(NotLegal, match="reaches beyond"):
            run(lambda call=call: work(call))


def test_profile_and_forget_work_with_a_key_that_ends_at_the_scope() -> None:
    only = ["user/alice", "user/alice/*"]
    verbs = ("memory:read", "memory:write", "memory:forget", "scope:read", "scope:create")
    narrow = {"alices": {"key": "sk-alice-0123456789", "grants": dict.fromkeys(verbs, only)}}
    with running_server(context="tests", principals=narrow) as server:

        async def work() -> tuple[dict[str, Any], int]:
            async with client(server, api_key="sk-alice-0123456789").sessions.create(
                scope={"user": "alice"}
            ) as session:
                await session.remember("I live in Lisbon.")
                return await session.profile(), await session.forget("Lisbon", dry_run=True)

        profile, would_forget = run(work)
        assert {"static", "dynamic", "preferences", "instructions"} <= set(profile)
        assert would_forget >= 1

        async def elsewhere() -> None:
            async with client(server, api_key="sk-alice-0123456789").sessions.create(scope={"user": "bob"}):
                raise AssertionError("a session outside the grants was opened")

        with pytest.raises(KeyRefused):
            run(elsewhere)


@pytest.mark.parametrize("fault", ["cut_after", "500_before", "500_after", "half_answer", "503", "429"])
def test_a_text_is_stored_once_whatever_fails_on_the_way(spectron: RunningServer, user: str, fault: Fault) -> None:
    failed: list[str] = []

    def once(seen: Seen) -> Fault:
        if seen.path.endswith("/facts") and not failed:
            failed.append(seen.path)
            return fault
        return "none"

    with misbehaving(spectron.base_url, once) as proxy:

        async def work() -> None:
            async with client(spectron, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
                await session.remember("only once")

        run(work)
    assert ["only once"] == [turn.content for turn in turns_of(spectron, user)]


def test_ids_are_escaped_as_the_mapping_does_it(spectron: RunningServer, user: str) -> None:
    async def work() -> str:
        async with client(spectron).sessions.create(scope={"user": f"{user}@Example.com"}) as session:
            return session.path

    assert f"user/x--{user}-40-45xample.com" == run(work)


@pytest.mark.parametrize("scope", [{}, {"User": "alice"}, {"a/b": "c"}])
def test_a_scope_that_is_none_is_refused(spectron: RunningServer, scope: dict[str, str]) -> None:
    with pytest.raises(InputError):
        client(spectron).sessions.create(scope=scope)


@pytest.mark.parametrize("top_k", [0, 51])
def test_more_hits_than_the_server_gives_are_refused(spectron: RunningServer, user: str, top_k: int) -> None:
    async def work() -> None:
        async with client(spectron).sessions.create(scope={"user": user}) as session:
            await session.recall("anything", top_k=top_k)

    with pytest.raises(InputError, match="1 to 50"):
        run(work)


def test_the_key_shows_itself_nowhere(spectron: RunningServer) -> None:
    secret = "sk-very-secret-key"

    async def work() -> None:
        async with client(spectron, api_key=secret).sessions.create(scope={"user": "alice"}):
            pass

    with pytest.raises(KeyRefused) as refused:
        run(work)
    assert secret not in f"{refused.value!r} {refused.value} {refused.value.hint} {client(spectron, api_key=secret)!r}"


@pytest.mark.parametrize("base_url", ["http://spectron.example.com", "https://u:p@spectron.example.com", "spectron"])
def test_an_endpoint_that_would_show_the_key_is_refused(base_url: str) -> None:
    with pytest.raises(InputError, match="base_url"):
        SpectronClient(base_url=base_url, api_key="k", context="c")


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_redirect_carries_no_key_anywhere(spectron: RunningServer) -> None:
    with misbehaving(spectron.base_url) as proxy, redirecting(proxy.base_url) as base_url:

        async def work() -> None:
            async with client(spectron, base_url=base_url).sessions.create(scope={"user": "alice"}):
                pass

        with pytest.raises(Unreachable):
            run(work)
        assert [] == proxy.seen
