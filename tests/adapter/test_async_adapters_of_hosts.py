"""Asynchronous applications on two hosts, and two processes that follow: all they share is a state in Postgres."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate import AsyncMemoryAdapter
from spectron_migrate.database.location import parse_location
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.follow import Follow
from spectron_migrate.state.postgres import PostgresState
from tests.adapter.support import Stage, Untouchable, begun, ids, judged, texts, turns
from tests.support.engines import named, states_in_postgres
from tests.support.scene import RecordingReporter
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it has its states in Postgres itself

psycopg = pytest.importorskip("psycopg")

TEA, OOLONG = "Prefers green tea over coffee", "Now drinks oolong tea"


@pytest.fixture
def stage(
    postgres: str, spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """An application with an empty Mem0, whose migration has its state in Postgres."""
    with states_in_postgres(postgres), Stage.open(tmp_path, spectron, user, monkeypatch) as stage:
        yield stage


def host(stage: Stage, client: Any = None) -> AsyncMemoryAdapter:
    """An application on a host of its own: with connections of its own to the state."""
    return stage.async_adapter(client, state=named(stage.state))


class Follower:
    """`replay --follow` on a host of its own, in a thread."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.reporter = RecordingReporter()
        self._state = PostgresState(parse_location(named(stage.state)))
        settings = replace(stage.settings, state=self._state, dump=stage.folder / f"dump of {name}")
        self._follow = Follow(settings, reporter=self.reporter, every_s=0.3)
        self._loop = asyncio.new_event_loop()
        self._stage = stage
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        async def follow() -> None:
            async with self._stage.api() as api:
                await self._follow.run(api)

        self._loop.run_until_complete(follow())

    def says(self, words: str) -> None:
        """Until it has said so."""
        wait_until(lambda: any(words in line for line in self.reporter.lines), said=lambda: self.reporter.lines)

    def end(self) -> None:
        """Until it has ended; may be called twice."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._follow.interrupt, ExitCode.SIGTERM)
        self._thread.join()
        self._loop.close()
        self._state.close()


@pytest.fixture
def followers(stage: Stage) -> Iterator[tuple[Follower, Follower]]:
    """Two processes of two hosts, the second of which waits; what Mem0 had before is in Spectron."""
    begun(stage)
    first = Follower(stage, "a")
    first.says("round 1:")
    second = Follower(stage, "b")
    second.says("waiting to take over")
    yield first, second
    for each in (second, first):
        each.end()


def test_what_one_host_writes_both_read_whoever_drains_it(stage: Stage, followers: tuple[Follower, Follower]) -> None:
    stage.shift(100)

    async def play() -> None:
        here, there = host(stage), host(stage)
        await here.add(TEA, stage.user, infer=False)
        for adapter in (here, there):
            assert TEA in texts(await adapter.search("green tea", stage.user))
        await asyncio.to_thread(wait_until, lambda: TEA in turns(stage))
        await asyncio.to_thread(followers[0].end)
        await asyncio.to_thread(followers[1].says, "following in its place")
        await there.add(OOLONG, stage.user, infer=False)
        for adapter in (here, there):
            assert OOLONG in texts(await adapter.search("oolong tea", stage.user))
        await asyncio.to_thread(wait_until, lambda: OOLONG in turns(stage))
        for adapter in (here, there):
            await until_spectron_answers(adapter, stage, OOLONG)
            assert 0 == adapter._core.process_calls.unnoted

    asyncio.run(play())
    assert 1 == turns(stage).count(TEA)
    judged(stage)


async def until_spectron_answers(adapter: AsyncMemoryAdapter, stage: Stage, text: str) -> None:
    """Until the user is read from there again, on this host too."""

    def of_spectron() -> int:
        return int(adapter._core.counters.snapshot()["reads"].get("spectron", 0))

    async with asyncio.timeout(120):
        before = of_spectron()
        while of_spectron() == before:
            assert text in texts(await adapter.search("oolong tea", stage.user))


def test_after_complete_what_one_host_added_has_its_id_on_the_other(stage: Stage) -> None:
    stage.say(TEA)
    stage.to_spectron()
    stage.step("closing")
    stage.step("complete")

    async def play() -> None:
        here, there = host(stage, Untouchable()), host(stage, Untouchable())
        stage.notice()
        made = ids(await here.add(OOLONG, stage.user))
        assert [OOLONG] == [(await there.get(made[0]))["memory"]]
        assert made[0] in ids(await there.search("oolong tea", stage.user))
        for adapter in (here, there):
            assert {TEA, OOLONG} == set(texts(await adapter.get_all(user_id=stage.user)))

    asyncio.run(play())


@contextmanager
def slow_log(stage: Stage) -> Iterator[Any]:
    """Nobody can append to the log of calls; the connection that keeps them from it."""
    location = parse_location(named(stage.state))
    with closing(psycopg.connect(location.url, autocommit=True)) as db:
        db.execute("SELECT pg_advisory_lock(%s)", (lock_key(location.schema, "call_line"),))
        yield db


def has_waiter(db: Any) -> bool:
    found = db.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
    return found is not None


def test_the_event_loop_goes_on_while_the_database_is_waited_for(stage: Stage) -> None:
    begun(stage)

    async def play() -> None:
        adapter = host(stage)
        stage.notice()
        with slow_log(stage) as db:
            adding = asyncio.create_task(adapter.add(TEA, stage.user, infer=False))
            async with asyncio.timeout(60):
                while not has_waiter(db):  # noqa: ASYNC110 - a server sets no event
                    await asyncio.sleep(0.01)
            assert not adding.done()
        await adding
        assert 0 == adapter._core.process_calls.unnoted, "the line was not given up"

    asyncio.run(play())


def test_a_call_that_is_cancelled_while_mem0_works_is_unknown_to_the_other_host(stage: Stage) -> None:
    begun(stage)

    async def play() -> None:
        asked = asyncio.Event()

        class Hanging:
            async def add(self, messages: Any, *, user_id: str | None = None, **more: Any) -> Any:
                asked.set()
                await asyncio.Event().wait()

        here, there = host(stage, Hanging()), host(stage)
        stage.notice()
        adding = asyncio.create_task(here.add(TEA, stage.user))
        await asked.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        calls = there._core.process_calls
        assert await asyncio.to_thread(calls.must_wait, stage.user, 0.0)
        assert not await asyncio.to_thread(calls.must_wait, "somebody else", 0.0)

    asyncio.run(play())
