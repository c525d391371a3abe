"""The client an application imports: the guide's example, and never wider than its session."""

from __future__ import annotations

import asyncio
import http.server
import json
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from spectron_migrate import SpectronClient
from spectron_migrate.errors import InputError, KeyRefused, NotLegal, Unreachable
from spectron_migrate.local.faults import Fault as Stored
from spectron_migrate.local.testing import RunningServer
from tests.support.here import server_here
from tests.support.proxy import CannedAnswer, Fault, Seen, misbehaving
from tests.support.replaying import forged, one_session_for_all, refused_connections
from tests.support.spectron import turns_of

pytestmark = pytest.mark.slow

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
    with server_here(context="tests", principals=narrow) as server:

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


def test_the_context_of_the_environment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURREAL_MEMORY_CONTEXT_ID", "acme")
    assert "acme" == SpectronClient(base_url="https://spectron.example", api_key="k").context

    monkeypatch.setenv("AGENT_MEMORY_CONTEXT", "other")
    with pytest.raises(InputError, match="AGENT_MEMORY_CONTEXT and SURREAL_MEMORY_CONTEXT_ID differ"):
        SpectronClient(base_url="https://spectron.example", api_key="k")


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


def remember_all(server: RunningServer, user: str, count: int, choose: Callable[[Seen], Fault], **more: Any) -> int:
    """Remember texts as an application does that calls again once where a call failed; returns the failures."""
    failures = 0

    async def work() -> None:
        nonlocal failures
        async with client(server, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
            for number in range(count):
                for _ in range(3):
                    try:
                        await session.remember(f"thing {number} of {user}", **more)
                        break
                    except Unreachable:
                        failures += 1

    with misbehaving(server.base_url, choose) as proxy:
        run(work)
    return failures


DOUBTFUL = ["500_after_released", "cut_after_released", "500_after_stuck", "cut_after", "cut_before", "garbage", "late"]


@pytest.mark.parametrize("infer", ["none", "full"])
@pytest.mark.parametrize("fault", DOUBTFUL)
def test_a_text_is_stored_once_whatever_becomes_of_its_response(
    spectron: RunningServer, user: str, fault: str, infer: str
) -> None:
    writes = 0

    def every_third(seen: Seen) -> Fault:
        nonlocal writes
        writes += seen.writes_fact
        return fault if seen.writes_fact and writes % 3 == 1 else "none"

    remember_all(spectron, user, 20, every_third, infer=infer)
    expected = [f"thing {number} of {user}" for number in range(20)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


def test_a_call_that_failed_and_is_made_again_keeps_its_key(spectron: RunningServer, user: str) -> None:
    keys: list[str] = []

    def silent_at_first(seen: Seen) -> Fault:
        if not seen.writes_fact:
            return "cut_before" if "/turns" in seen.path and len(keys) < 4 else "none"
        keys.append(seen.headers["idempotency-key"])
        return "cut_after" if len(keys) < 4 else "none"

    assert 0 < remember_all(spectron, user, 1, silent_at_first)
    assert 1 == len(set(keys))
    assert 1 == len(turns_of(spectron, user))


def test_the_same_text_twice_on_purpose_is_stored_twice(spectron: RunningServer, user: str) -> None:
    async def work() -> None:
        async with client(spectron, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
            for _ in range(4):
                await session.remember("again", infer="none")

    with misbehaving(spectron.base_url, lambda seen: "500_after_released" if seen.writes_fact else "none") as proxy:
        run(work)
    assert ["again"] * 4 == [turn.content for turn in turns_of(spectron, user)]


def test_a_key_of_the_callers_is_kept_on_the_wire(spectron: RunningServer, user: str) -> None:
    async def work() -> None:
        async with client(spectron).sessions.create(scope={"user": user}) as session:
            for _ in range(2):
                await session.remember("once", key="order-17-note")

    run(work)
    assert ["once"] == [turn.content for turn in turns_of(spectron, user)]


def test_a_key_of_the_callers_stores_a_text_once_also_from_a_new_process(spectron: RunningServer, user: str) -> None:
    """A new process has a new session: the server refuses a key that it knows, and stores the text under another."""

    async def remember(text: str, key: str) -> None:
        async with client(spectron).sessions.create(scope={"user": user}) as session:
            await session.remember(text, key=key)

    run(lambda: remember("stored before the process died", "note-1"))
    with pytest.raises(InputError, match="refused the text"):
        run(lambda: remember("stored before the process died", "note-1"))
    run(lambda: remember("never left the process that died", "note-2"))
    stored = sorted(turn.content for turn in turns_of(spectron, user))
    assert ["never left the process that died", "stored before the process died"] == stored


def test_a_write_in_flight_is_waited_for_as_long_as_it_may_take(spectron: RunningServer, user: str) -> None:
    waited: list[float] = []

    async def count(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0)

    async def work(base_url: str) -> None:
        one = SpectronClient(
            base_url=base_url, api_key=spectron.api_key, context=spectron.context, sleep=count, timeout=60.0
        )
        async with one.sessions.create(scope={"user": user}) as session:
            await session.remember("slow")

    with (
        misbehaving(spectron.base_url, lambda seen: "500_before_stuck" if seen.writes_fact else "none") as proxy,
        pytest.raises(Unreachable),
    ):
        run(lambda: work(proxy.base_url))
    assert 60.0 <= sum(waited)


def test_a_session_in_another_scope_is_refused(
    spectron: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(seen: Seen, body: bytes) -> bytes | None:
        if seen.method != "POST" or not seen.path.endswith("/sessions"):
            return None
        return json.dumps({**json.loads(body), "scopes": [["shared/"]]}).encode()

    forged(monkeypatch, shared)

    async def work() -> None:
        async with client(spectron, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
            await session.remember("my PIN is 1234")

    with misbehaving(spectron.base_url) as proxy, pytest.raises(NotLegal, match="instead of"):
        run(work)
    assert [] == turns_of(spectron, user)


@pytest.mark.parametrize("status", [404, 413, 422])
def test_what_was_stored_and_refused_all_the_same_is_there_once(
    spectron: RunningServer, user: str, status: int
) -> None:
    stored = Stored(key="forgotten", shown=CannedAnswer(status, "refused"))
    assert 0 == remember_all(spectron, user, 3, lambda seen: stored if seen.writes_fact else "none")
    assert [f"thing {number} of {user}" for number in range(3)] == [turn.content for turn in turns_of(spectron, user)]


def test_what_was_stored_and_throttled_by_a_server_that_then_restarts_is_there_once(
    spectron: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost its keys; a connection that is refused shows that."""
    refused = refused_connections(monkeypatch)
    faults = iter([Stored(key="forgotten", shown=CannedAnswer(429, "slow down", "0"))])

    def choose(seen: Seen) -> Fault:
        fault = next(faults, "none") if seen.writes_fact else "none"
        refused.extend(["connection refused"] if fault != "none" else [])
        return fault

    assert 0 == remember_all(spectron, user, 1, choose)
    assert [f"thing 0 of {user}"] == [turn.content for turn in turns_of(spectron, user)]


def test_an_equal_text_in_an_older_session_that_the_server_gives_again_is_not_taken_for_what_is_said_now(
    spectron: RunningServer, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers answer with the session of a scope that is there: what was said there before is no receipt."""

    async def say(text: str) -> None:
        async with client(spectron, base_url=proxy.base_url).sessions.create(scope={"user": user}) as session:
            await session.remember(text, infer="none")

    made = one_session_for_all(monkeypatch)
    with misbehaving(spectron.base_url) as proxy:
        run(lambda: say("likes tea"))
        run(lambda: say("hates tea"))
        with sqlite3.connect(spectron.database) as db:
            db.execute("UPDATE turn SET created_at = '2026-01-01T00:00:00Z' WHERE session = ?", (made[0],))
        db.close()
        faults = iter(["cut_before"])
        proxy.choose = lambda seen: next(faults, "none") if seen.writes_fact else "none"
        run(lambda: say("likes tea"))
    assert ["likes tea", "hates tea", "likes tea"] == [turn.content for turn in turns_of(spectron, user)]
