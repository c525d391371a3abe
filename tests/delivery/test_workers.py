"""Several replays that share a ledger in Postgres."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spectron_migrate.delivery.marker import RunMarker
from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError, Interrupted, LedgerLocked, NotLegal, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, adopting, erasing, plan, sessions
from spectron_migrate.ledger.read import known
from spectron_migrate.ledger.workers import FRESH_S, SETTLE_S, Workers
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.joining import open_again
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.records import Filters
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import Sleep, SpectronApi
from tests.support.engines import states_in_postgres
from tests.support.here import server_here
from tests.support.oracle import find_violations
from tests.support.proxy import Fault, Seen, gated, misbehaving
from tests.support.replaying import complete_scan, is_write, mem0_row
from tests.support.spectron import turns_of

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """Memories of some users, and where they are to go."""

    server: RunningServer
    state: Path
    dump: Path
    users: list[str]

    def replay(self, options: ReplayOptions | None = None, **named: Any) -> Replaying:
        """A worker that has not begun."""
        return Replaying(self, options or ReplayOptions(max_in_flight=4), **named)

    def violations(self, *, finished: bool = True) -> list[str]:
        """What the oracle finds on the server's own tables, of our users."""
        with open_any([self.dump]) as dump:
            memories = list(dump.memories())
        found = find_violations(self.server.database, self.state, memories, load_mapping(None), finished=finished)
        return [each for each in found if any(user in each for user in self.users)]

    def stored(self) -> int:
        """How many memories have a receipt."""
        with Ledger.open_for_reading(self.state) as ledger:
            return int(ledger.db.execute("SELECT count(*) FROM receipt").fetchone()[0])


@dataclass
class Replaying:
    """One worker, in this process."""

    scene: Scene
    options: ReplayOptions
    mapping: Path | None = None
    endpoint: str | None = None
    dump: Path | None = None
    has_dump: bool = True
    sleep: Sleep = asyncio.sleep

    async def run(self) -> ReplaySummary:
        """Deliver."""
        server = self.scene.server
        endpoint = self.endpoint or server.base_url
        with open_any([self.dump or self.scene.dump]) as dump:
            planned_from = dump if self.has_dump else None
            async with SpectronApi(endpoint, server.context, api_key=server.api_key, timeout_s=20.0) as api:
                replay = Replay(
                    self.scene.state,
                    planned_from,
                    load_mapping(self.mapping),
                    self.options,
                    reporter=NullReporter(),
                    sleep=self.sleep,
                )
                return await replay.run(api)


@pytest.fixture
def scene(spectron: RunningServer, postgres: str, tmp_path: Path, user: str) -> Iterator[Scene]:
    users = [f"{user}{number}" for number in range(12)]
    rows = [mem0_row(each, hour, f"{each} said thing number {hour}") for each in users for hour in range(8)]
    dump = complete_scan(tmp_path / "dump", rows, datetime(2025, 2, 1, tzinfo=UTC))
    with states_in_postgres(postgres):
        yield Scene(spectron, tmp_path / "state", dump, users)


def at_write(number: int, act: Callable[[], None]) -> Callable[[Seen], Fault]:
    """Acts when the write of this number comes by, once."""
    writes = 0

    def choose(seen: Seen) -> Fault:
        nonlocal writes
        if is_write(seen):
            writes += 1
            if writes == number:
                act()
        return "none"

    return choose


@dataclass
class Hold:
    """Keeps one write, and whatever comes after it, until `go_on`: so long its worker is at work for certain."""

    number: int
    fault: Fault = "none"
    """Of that write."""
    writes: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, seen: Seen) -> Fault:
        self.writes += is_write(seen)
        if not is_write(seen) or self.writes != self.number:
            return "none"
        self.reached.set()
        self.go_on.wait(60)
        return self.fault

    async def while_held(self, worker: Replaying, act: Callable[[], Awaitable[object]]) -> ReplaySummary:
        """Act while this worker, whose requests come by here, is in the middle of its work."""
        task = asyncio.ensure_future(worker.run())
        try:
            assert await asyncio.to_thread(self.reached.wait, 60)
            await act()
        finally:
            self.go_on.set()
        return await task


async def together(*workers: Replaying) -> list[ReplaySummary]:
    return await asyncio.gather(*(worker.run() for worker in workers))


@contextmanager
def joined_first(workers: int, monkeypatch: pytest.MonkeyPatch, *, endpoint: str) -> Iterator[str]:
    """An endpoint that lets no write pass before so many workers have joined."""
    joined: list[Workers] = []
    let_others_join = Workers.let_others_join

    def join(self: Workers) -> None:
        let_others_join(self)
        joined.append(self)

    monkeypatch.setattr(Workers, "let_others_join", join)
    with gated(endpoint) as gate:
        gate.shut = lambda seen: is_write(seen) and len(joined) < workers
        yield gate.base_url


def at_one_time(scene: Scene, options: ReplayOptions, monkeypatch: pytest.MonkeyPatch) -> list[ReplaySummary]:
    """What three workers did, of whom none wrote before all had joined: a later one would begin a run of its own."""
    with joined_first(3, monkeypatch, endpoint=scene.server.base_url) as endpoint:
        return asyncio.run(together(*(scene.replay(options, endpoint=endpoint) for _ in range(3))))


def test_three_workers_share_the_lanes_and_write_each_memory_once(scene: Scene) -> None:
    done = asyncio.run(together(scene.replay(), scene.replay(), scene.replay()))
    assert [ExitCode.DONE] * 3 == [one.exit_code for one in done]
    assert 96 == scene.stored()
    assert [] == scene.violations()


def cut(postgres: str) -> None:
    """End the oldest connection of a worker, and wait until its locks are free."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'spectron-migrate %' ORDER BY backend_start LIMIT 1"
        )


def test_a_worker_that_loses_its_connection_settles_its_doubts_and_goes_on(
    scene: Scene, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        misbehaving(scene.server.base_url, at_write(30, lambda: cut(postgres))) as proxy,
        joined_first(2, monkeypatch, endpoint=proxy.base_url) as endpoint,
    ):
        done = asyncio.run(together(*(scene.replay(endpoint=endpoint) for _ in range(2))))
    assert [ExitCode.DONE] * 2 == [one.exit_code for one in done]
    assert 96 == scene.stored()
    assert [] == scene.violations()


def test_whoever_takes_a_lane_waits_before_an_intent_counts_as_never_sent(scene: Scene) -> None:
    waits: list[float] = []
    listed_after: list[int] = []

    async def die() -> None:
        task = asyncio.ensure_future(scene.replay(endpoint=proxy.base_url).run())
        assert await asyncio.to_thread(hold.reached.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hold.go_on.set()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    hold = Hold(20, "cut_before")
    with misbehaving(scene.server.base_url, hold) as proxy:
        asyncio.run(die())
        with Ledger.open_for_reading(scene.state) as ledger:
            doubts = ledger.db.execute("SELECT count(DISTINCT lane) FROM fact WHERE state = 'intended'").fetchone()[0]

        def look(seen: Seen) -> Fault:
            if "/turns" in seen.path:
                listed_after.append(waits.count(SETTLE_S))
            return "none"

        proxy.choose = look
        done = asyncio.run(together(scene.replay(endpoint=proxy.base_url, sleep=sleep)))
    assert ExitCode.DONE == done[0].exit_code
    assert doubts > 0
    assert doubts == waits.count(SETTLE_S)
    assert SETTLE_S > FRESH_S
    assert [] == scene.violations()


def test_a_worker_that_cannot_show_that_its_lanes_are_its_own_begins_no_request(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def ask(self: Workers) -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Unreachable("the connection is lost")

    monkeypatch.setattr(Workers, "is_fresh", property(lambda self: False))
    monkeypatch.setattr(Workers, "ask", ask)
    with misbehaving(scene.server.base_url, lambda seen: "none") as proxy:
        done = asyncio.run(together(scene.replay(ReplayOptions(max_in_flight=1), endpoint=proxy.base_url)))
    assert ExitCode.UNREACHABLE == done[0].exit_code
    assert 0 == scene.stored()
    assert [] == [seen.path for seen in proxy.seen if seen.writes_fact or seen.path.endswith("/sessions")]


def test_the_number_of_memories_is_that_of_all_workers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    done = at_one_time(scene, ReplayOptions(limit=20, max_in_flight=4), monkeypatch)
    assert 20 == scene.stored()
    assert {ExitCode.LIMIT} == {one.exit_code for one in done}
    assert [] == scene.violations(finished=False)


def test_the_number_of_tokens_is_that_of_all_workers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    done = at_one_time(scene, ReplayOptions(max_tokens=9_000, max_in_flight=4), monkeypatch)
    assert {ExitCode.LIMIT} == {one.exit_code for one in done}
    assert 0 < sum(one.tokens for one in done) <= 9_000
    assert [] == scene.violations(finished=False)


def test_turns_of_all_workers_are_as_far_apart_as_the_rate_says(scene: Scene) -> None:
    async def take() -> list[float]:
        workers = []
        for _ in range(3):
            ledger = Ledger.open_for_delivery(scene.state)
            assert ledger.workers is not None
            assert ledger.workers.try_join()
            if ledger.workers.is_alone:
                ledger.workers.prepare()
                ledger.workers.set_terms({}, sends=None, tokens=None)
            ledger.workers.let_others_join()
            workers.append(ledger)
        began = time.monotonic()
        turns = []
        for number in range(30):
            found = workers[number % 3].workers
            assert found is not None
            now = time.monotonic() - began
            turns.append(now + found.take_turns(1, 0.5))
        for ledger in workers:
            ledger.close()
        return turns

    turns = asyncio.run(take())
    assert all(two - one > 0.4 for one, two in pairwise(turns))


@pytest.mark.parametrize(
    "other", [ReplayOptions(limit=5), ReplayOptions(max_rps=3.0), ReplayOptions(retry_failed=True)]
)
def test_a_worker_with_other_options_than_those_at_work_is_refused(scene: Scene, other: ReplayOptions) -> None:
    refused: list[BaseException] = []

    async def join() -> None:
        try:
            await scene.replay(other).run()
        except InputError as error:
            refused.append(error)

    hold = Hold(10)
    with misbehaving(scene.server.base_url, hold) as proxy:
        asyncio.run(hold.while_held(scene.replay(endpoint=proxy.base_url), join))
    assert [True] == ["called with other options" in str(each) for each in refused]
    assert [] == scene.violations()


def test_another_export_waits_until_the_others_have_ended(scene: Scene, tmp_path: Path) -> None:
    rows = [mem0_row(scene.users[0], hour, f"{scene.users[0]} said thing number {hour}") for hour in range(9)]
    newer = complete_scan(tmp_path / "newer", rows, datetime(2025, 2, 2, tzinfo=UTC))
    refused: list[LedgerLocked] = []

    async def join() -> None:
        try:
            await scene.replay(dump=newer).run()
        except LedgerLocked as error:
            refused.append(error)

    hold = Hold(10)
    with misbehaving(scene.server.base_url, hold) as proxy:
        asyncio.run(hold.while_held(scene.replay(endpoint=proxy.base_url), join))
    assert "other processes deliver another plan" in str(refused[0])
    assert [] == scene.violations()


def test_a_worker_at_another_server_is_refused_before_anything_shows_it(scene: Scene, tmp_path: Path) -> None:
    refused: list[WrongLedger] = []

    async def play(elsewhere: str) -> None:
        first = asyncio.ensure_future(scene.replay(endpoint=proxy.base_url).run())
        await asyncio.to_thread(opening.wait, 30)
        try:
            await scene.replay(endpoint=elsewhere).run()
        except WrongLedger as error:
            refused.append(error)
        finally:
            go_on.set()
        await first

    def hold(seen: Seen) -> Fault:
        if seen.method == "POST" and seen.path.endswith("/sessions"):
            opening.set()
            go_on.wait(30)
        return "none"

    opening, go_on = threading.Event(), threading.Event()
    with server_here(tmp_path / "other", context="tests") as other:
        with misbehaving(scene.server.base_url, hold) as proxy:
            asyncio.run(play(other.base_url))
        assert [] == [turn for each in scene.users for turn in turns_of(other, each)]
    assert 1 == len(refused)
    assert "nothing shows yet" in str(refused[0])
    assert [] == scene.violations()


def _begin_erase(ledger: Ledger, user: str) -> None:
    erasing.begin(ledger, f"user/{user}", now="2026-05-04T00:00:00Z")


def _begin_adoption(ledger: Ledger, user: str) -> None:
    del user
    adopting.begin(ledger, now="2026-05-04T00:00:00Z")


async def come_back(lost: Ledger, number: int, options: ReplayOptions, *, sleep: Sleep = asyncio.sleep) -> None:
    """As a replay does whose connection was lost."""
    ledger = await open_again(
        lost, number, options.terms, reporter=NullReporter(), check_interrupted=lambda: None, sleep=sleep
    )
    ledger.close()


@pytest.mark.parametrize(("begin", "message"), [(_begin_erase, "an erase of scope"), (_begin_adoption, "an adoption")])
def test_a_worker_that_lost_its_connection_does_not_go_on_amid_what_another_command_began(
    scene: Scene, postgres: str, begin: Callable[[Ledger, str], None], message: str
) -> None:
    options = ReplayOptions(limit=5, max_in_flight=4)
    asyncio.run(together(scene.replay(options)))
    with Ledger.open_for_delivery(scene.state) as lost:
        assert lost.workers is not None
        assert lost.workers.try_join()
        lost.workers.let_others_join()
        last = plan.last_plan(lost)
        assert last is not None
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("SELECT pg_terminate_backend(%s, 30000)", (lost.db.driver_pid,))  # type: ignore[attr-defined]
        with Ledger.open_for_writing(scene.state) as other, other.transaction():
            begin(other, scene.users[0])
        with pytest.raises((NotLegal, WrongLedger), match=message):
            asyncio.run(come_back(lost, last[0], options))


def test_a_worker_that_loses_its_connection_again_while_it_comes_back_tries_again(
    scene: Scene, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ReplayOptions(limit=5, max_in_flight=4)
    asyncio.run(together(scene.replay(options)))
    ended: list[int] = []
    last_plan = plan.last_plan

    def end_connection(ledger: Ledger) -> None:
        ended.append(ledger.db.driver_pid)  # type: ignore[attr-defined]
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("SELECT pg_terminate_backend(%s, 30000)", (ended[-1],))

    def lost_amid_the_checks(ledger: Ledger) -> object:
        if len(ended) < 3:
            end_connection(ledger)
        return last_plan(ledger)

    with Ledger.open_for_delivery(scene.state) as lost:
        assert lost.workers is not None
        assert lost.workers.try_join()
        lost.workers.let_others_join()
        last = plan.last_plan(lost)
        assert last is not None
        end_connection(lost)
        monkeypatch.setattr(plan, "last_plan", lost_amid_the_checks)
        asyncio.run(come_back(lost, last[0], options, sleep=lambda _: asyncio.sleep(0)))
    assert 3 == len(set(ended))


def test_a_signal_while_it_comes_back_does_not_say_that_nothing_was_sent(scene: Scene, postgres: str) -> None:

    async def play() -> None:
        loop = asyncio.get_running_loop()
        began: list[Replay] = []

        def interrupt_and_cut() -> None:
            handled = threading.Event()
            loop.call_soon_threadsafe(lambda: (began[0].interrupt(ExitCode.SIGTERM), handled.set()))
            handled.wait()
            cut(postgres)

        server = scene.server
        with open_any([scene.dump]) as dump, misbehaving(server.base_url, at_write(20, interrupt_and_cut)) as proxy:
            async with SpectronApi(proxy.base_url, server.context, api_key=server.api_key, timeout_s=20.0) as api:
                options = ReplayOptions(max_in_flight=1)
                began.append(Replay(scene.state, dump, load_mapping(None), options, reporter=NullReporter()))
                await began[0].run(api)

    with pytest.raises(Interrupted, match="while it tried to reach the ledger again"):
        asyncio.run(play())
    assert 0 < scene.stored()


@pytest.mark.parametrize("slept_s", [0.0, FRESH_S])
def test_what_postgres_answered_before_the_host_slept_counts_no_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, slept_s: float
) -> None:
    """`time.monotonic` stands still while a host is suspended, and others take its lanes meanwhile."""
    asyncio.run(together(scene.replay(ReplayOptions(limit=1))))
    with Ledger.open_for_delivery(scene.state) as ledger:
        assert ledger.workers is not None
        assert ledger.workers.try_join()
        read = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + slept_s)
        assert (slept_s == 0.0) == ledger.workers.is_fresh


def test_a_worker_that_comes_back_looks_into_scopes_that_others_registered_meanwhile(scene: Scene) -> None:
    """A replica that lagged may have lost what the others wrote there."""
    marker = RunMarker(sleep=asyncio.sleep)
    selector = ((f"user/{scene.users[0]}",),)
    with Ledger.open_for_writing(scene.state) as ledger:
        own = marker.own_work(ledger, "2026-05-04T00:00:00Z")
        with ledger.transaction():
            sessions.intend_scopes(ledger, [f"user/{scene.users[0]}"], "2026-05-04T00:01:00Z")
            sessions.scope_registered(ledger, f"user/{scene.users[0]}", created_by_us=True)
        assert not known.is_earlier_scope(ledger, selector, own.began)
        marker.forget_sessions(ledger, now="2026-05-04T00:02:00Z")
        assert known.is_earlier_scope(ledger, selector, marker.own_work(ledger, "2026-05-04T00:03:00Z").began)


def once_free(state: Path) -> Ledger:
    """The ledger for writing; the server frees the locks of a connection a moment after its end."""
    for _ in range(200):
        with suppress(LedgerLocked):
            return Ledger.open_for_writing(state)
    return Ledger.open_for_writing(state)


def test_a_replay_without_a_dump_writes_nothing_amid_an_erase(scene: Scene) -> None:
    asyncio.run(together(scene.replay(ReplayOptions(limit=5))))
    with once_free(scene.state) as ledger, ledger.transaction():
        _begin_erase(ledger, scene.users[0])
    with pytest.raises(NotLegal, match="an erase of scope"):
        asyncio.run(together(scene.replay(has_dump=False)))
    assert 5 == scene.stored()


def test_a_replay_without_a_dump_that_chooses_memories_does_not_join_those_that_deliver_others(scene: Scene) -> None:
    refused: list[InputError] = []

    async def join() -> None:
        try:
            await scene.replay(ReplayOptions(filters=Filters(users=frozenset({"nobody"}))), has_dump=False).run()
        except InputError as error:
            refused.append(error)

    hold = Hold(10)
    with misbehaving(scene.server.base_url, hold) as proxy:
        asyncio.run(hold.while_held(scene.replay(endpoint=proxy.base_url), join))
    assert ["there is no dump to plan from"] == [each.message for each in refused]
