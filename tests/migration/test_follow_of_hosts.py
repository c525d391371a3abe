"""Several processes that would follow one state in Postgres: one does, the others wait to take over from it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import memories
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.follow import Follow
from spectron_migrate.migration.follow_summary import FollowSummary
from spectron_migrate.records import format_time
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.following import FOLLOW_FILE, FOLLOW_LOCK
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.store import read_object
from tests.mem0.qdrant_points import uuid
from tests.migration.support import following, read_until, write_settings
from tests.support.scene import RecordingReporter, Scene, Store
from tests.support.spectron import turns_of

# Each opens its states in Postgres itself.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.ledger_file]


def at(hour: int) -> datetime:
    return datetime.fromisoformat(f"2026-05-01T{hour:02d}:00:00Z")


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """Two working directories that share a Mem0, and nothing else."""
    return tmp_path / "a", tmp_path / "b"


def test_a_second_follower_waits_and_takes_over_when_the_first_is_killed(
    spectron: RunningServer, user: str, tmp_path: Path, hosts: tuple[Path, Path], postgres_state: str
) -> None:
    store = Store(tmp_path / "mem0")
    store.put(1, "one", user, at(1))
    store.put(2, "two", user, at(2))
    for host in hosts:
        host.mkdir()
        write_settings(host, store)
    words = ("--state", postgres_state)
    first = following(hosts[0], spectron, *words)
    read_until(first, lambda line: "round 1:" in line)
    second = following(hosts[1], spectron, *words)
    assert f"/{first.pid} follows: waiting to take over from it" in read_until(second, lambda line: "follows:" in line)
    store.put(3, "three", user, at(3))
    read_until(first, lambda line: "1 new" in line)
    first.send_signal(signal.SIGSTOP)
    store.drop(1)
    store.put(2, "two, corrected", user, at(2), edited=at(4))
    first.kill()
    first.communicate(timeout=60)
    assert "following in its place" in read_until(second, lambda line: "has ended" in line)
    read_until(second, lambda line: "round 1:" in line)
    second.terminate()
    out, said = second.communicate(timeout=60)
    assert 143 == second.returncode, said
    assert "Following ended" in out
    assert ["one", "two", "three", "two, corrected"] == [turn.content for turn in turns_of(spectron, user)]
    with Ledger.open_for_reading(parse_location(postgres_state)) as ledger:
        gone = memories.last_version(ledger, uuid(1))
        assert gone is not None
        assert gone.tombstoned_at is not None, "deleted while nobody followed, and in no dump of the second host"


class HeldFollow(Follow):
    """A follower that a test keeps between two looks at Mem0, or at the lock."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.pauses = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def _pause(self, seconds: float) -> None:
        self.pauses.set()
        await self.goes_on.wait()
        self.pauses.clear()
        await super()._pause(seconds)

    async def hold(self) -> None:
        """Keep it in its next pause."""
        self.goes_on.clear()
        await self.pauses.wait()


class Host:
    """A follower in this process, with a dump and connections of its own."""

    def __init__(self, scene: Scene, url: str, name: str) -> None:
        self.state = PostgresState(parse_location(url))
        self.reporter = RecordingReporter()
        settings = replace(scene.settings, state=self.state, dump=scene.folder / f"dump of {name}")
        times: dict[str, Any] = {"clock": scene.time.clock, "now": scene.time.now, "sleep": self._sleep}
        self._time = scene.time
        self.follow = HeldFollow(settings, reporter=self.reporter, **times)

    async def _sleep(self, seconds: float) -> None:
        await self._time.sleep(seconds)
        await asyncio.sleep(0.01)

    async def says(self, words: str) -> None:
        """Until it has said so."""
        await until(lambda: any(words in line for line in self.reporter.lines))


async def until(holds: Callable[[], bool]) -> None:
    """Until a task of this thread has come so far."""
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110 - what it waits for sets no event
            await asyncio.sleep(0.02)


@pytest.fixture
def pair(scene: Scene, postgres_state: str) -> Iterator[tuple[Host, Host]]:
    hosts = Host(scene, postgres_state, "a"), Host(scene, postgres_state, "b")
    yield hosts
    for host in hosts:
        host.state.close()


def cut_lock(postgres: str, url: str) -> None:
    """End the connection that holds the lock of the process that follows, as where its host is cut off."""
    key = lock_key(parse_location(url).schema, FOLLOW_LOCK) & 0xFFFF_FFFF_FFFF_FFFF
    with psycopg.connect(postgres, autocommit=True) as db:
        ended = db.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid::bigint = %s AND objid::bigint = %s",
            (key >> 32, key & 0xFFFF_FFFF),
        ).fetchall()
    assert [(True,)] == ended


def test_a_follower_whose_lock_was_lost_waits_for_the_one_that_took_it(
    scene: Scene, postgres: str, postgres_state: str, pair: tuple[Host, Host]
) -> None:
    one, other = pair
    scene.put(1, "one")

    async def play() -> tuple[FollowSummary, FollowSummary]:
        async with scene.api() as api:
            first = asyncio.ensure_future(one.follow.run(api))
            await one.says("round 1:")
            second = asyncio.ensure_future(other.follow.run(api))
            await other.says("waiting to take over")
            await one.follow.hold()
            cut_lock(postgres, postgres_state)
            scene.put(2, "two")
            await other.says("following in its place")
            await other.says("round 1:")
            one.follow.goes_on.set()
            await one.says("waiting to take over")
            other.follow.interrupt(ExitCode.SIGTERM)
            taken = await second
            await one.says("following in its place")
            scene.put(3, "three")
            await until(lambda: "three" in scene.texts)
            one.follow.interrupt(ExitCode.SIGTERM)
            return await first, taken

    done, taken = asyncio.run(play())
    assert [ExitCode.SIGTERM] * 2 == [done.exit_code, taken.exit_code]
    assert ["one", "two", "three"] == scene.texts


def test_whoever_waits_writes_nothing_into_the_report_of_the_process_that_follows(
    scene: Scene, pair: tuple[Host, Host]
) -> None:
    one, other = pair
    scene.put(1, "one")

    async def play() -> FollowSummary:
        async with scene.api() as api:
            first = asyncio.ensure_future(one.follow.run(api))
            await one.says("round 1:")
            await one.follow.hold()
            before = read_object(one.state, FOLLOW_FILE)
            second = asyncio.ensure_future(other.follow.run(api))
            await other.says("waiting to take over")
            other.follow.interrupt(ExitCode.SIGINT)
            waited = await second
            assert before == read_object(one.state, FOLLOW_FILE)
            one.follow.interrupt(ExitCode.SIGTERM)
            one.follow.goes_on.set()
            await first
            return waited

    waited = asyncio.run(play())
    assert ExitCode.SIGINT == waited.exit_code
    assert 0 == waited.rounds
    assert "stopped" == waited.ended
    report = read_object(one.state, FOLLOW_FILE)
    assert report is not None
    assert "stopped" == report["ended"]


def test_whoever_waits_ends_with_the_cutover(scene: Scene, pair: tuple[Host, Host]) -> None:
    one, other = pair
    scene.put(1, "one")
    record_step(one.state, Step("start", format_time(scene.time.now()), "anna", migration="f" * 16))

    async def play() -> list[FollowSummary]:
        async with scene.api() as api:
            first = asyncio.ensure_future(one.follow.run(api))
            await one.says("round 1:")
            second = asyncio.ensure_future(other.follow.run(api))
            await other.says("waiting to take over")
            record_step(one.state, Step("complete", format_time(scene.time.now()), "anna"))
            return [await first, await second]

    done = asyncio.run(play())
    assert ["the cutover is complete"] * 2 == [each.ended for each in done]
    assert [ExitCode.DONE] * 2 == [each.exit_code for each in done]
