"""Limits, signals and servers that fail: every run ends, and the next one goes on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path

import pytest

from spectron_migrate.delivery.run import Run
from spectron_migrate.delivery.scheduler import PAGE
from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError, Unreachable
from spectron_migrate.ledger import Ledger, lanes
from spectron_migrate.ledger import sqlite as ledger_file
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mapping.segments import MARKER
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import is_write, nap, replay_in_no_time, texts
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow


def test_a_limit_stops_with_a_remainder_and_the_next_run_goes_on(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    first = replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=7))
    assert ExitCode.LIMIT == first.exit_code
    assert 7 == first.written
    assert 13 == first.remaining
    second = replay(spectron, tmp_path / "state", [dump])
    assert ExitCode.DONE == second.exit_code
    assert 13 == second.written
    assert 7 == second.already
    expected = [f"{user} remembers thing number {number}" for number in range(20)]
    assert expected == [turn.content for turn in turns_of(spectron, user)]


def test_a_limit_holds_over_all_lanes_together(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "abcdefgh" for number in range(10)]
    dump = write_raw(tmp_path / "all.json", rows)
    summary = replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=5))
    assert ExitCode.LIMIT == summary.exit_code
    assert 5 == summary.written
    assert 75 == summary.remaining


@pytest.mark.both_engines
def test_what_a_lane_reserved_and_did_not_send_is_sent_from_a_lane_that_found_nothing_left(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    found_nothing = threading.Event()
    reserve = Run.reserve_sends
    forbidden: list[str] = []

    async def reserving(run: Run, wanted: int) -> int:
        reserved = await reserve(run, wanted)
        if wanted and not reserved:
            found_nothing.set()
        return reserved

    def forbid_the_first(seen: Seen) -> Fault:
        if forbidden or not (seen.method == "POST" and seen.path.endswith("/sessions")):
            return "none"
        forbidden.append(seen.path)
        assert found_nothing.wait(120)
        return refusing(403, "not in your region")

    monkeypatch.setattr(Run, "reserve_sends", reserving)
    with misbehaving(spectron.base_url, forbid_the_first) as proxy:
        options = ReplayOptions(limit=3)
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, options=options)
    assert 1 == len(forbidden)
    assert 3 == summary.written


def test_once_a_limit_is_used_up_no_more_lanes_are_looked_at(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    take_lane = lanes.take_lane

    def counted(ledger: Ledger, plan: int, lane: str) -> lanes.LaneWork | None:
        looked.append(lane)
        return take_lane(ledger, plan, lane)

    monkeypatch.setattr(lanes, "take_lane", counted)
    users = 4 * PAGE
    dump = write_raw(tmp_path / "all.json", [memory(0, f"{user}{number}") for number in range(users)])
    options = ReplayOptions(limit=5, max_in_flight=4)
    summary = replay(spectron, tmp_path / "state", [dump], options=options)
    assert (5, users - 5) == (summary.written, summary.remaining)
    assert len(looked) < 3 * PAGE


def test_a_limit_with_a_remainder_exits_8_even_if_memories_were_refused(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(5)])

    def refuse_first(seen: Seen) -> Fault:
        return "400" if is_write(seen) and b"number 0" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_first) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, options=ReplayOptions(limit=2))
    assert 1 == summary.refused
    assert 1 == summary.written
    assert 3 == summary.remaining
    assert ExitCode.LIMIT == summary.exit_code, "3 says done, and it is not done"


def test_the_token_limit_is_not_exceeded(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user) for number in range(10)]
    dump = write_raw(tmp_path / "all.json", rows)
    each = estimate_tokens(rows[0]["memory"], "full")[1]
    first = replay_in_no_time(
        spectron, tmp_path / "state", dump, options=ReplayOptions(max_tokens=4 * each + each // 2)
    )
    assert ExitCode.LIMIT == first.exit_code
    assert 4 == first.written
    assert 6 == first.remaining
    assert 4 * each == first.tokens
    second = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert ExitCode.DONE == second.exit_code
    assert 6 == second.written


def test_tokens_are_counted_as_the_server_reports_them(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(10)])
    with misbehaving(spectron.base_url) as proxy:
        proxy.change = lambda seen, body: (  # type: ignore[method-assign]
            json.dumps({**json.loads(body), "usage": {"totalTokens": 5}}).encode() if seen.writes_fact else None
        )
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            options=ReplayOptions(max_tokens=10_000),
        )
    assert ExitCode.DONE == summary.exit_code
    assert 10 == summary.written
    assert 50 == summary.tokens


def test_a_signal_ends_a_run_that_waits_for_what_the_server_asked_for(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    step: Replay

    async def sleep(seconds: float) -> None:
        if seconds < 100:
            await asyncio.sleep(0)
            return
        step.interrupt(ExitCode.SIGTERM)
        await asyncio.Event().wait()  # an hour, as far as a test is concerned

    async def run(endpoint: str) -> ReplaySummary:
        nonlocal step
        async with SpectronApi(endpoint, spectron.context, api_key=spectron.api_key, sleep=nap) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    tmp_path / "state",
                    opened,
                    load_mapping(None),
                    ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                )
                return await asyncio.wait_for(step.run(api), timeout=10)

    busy = refusing(503, "busy", "3600")
    with misbehaving(spectron.base_url, lambda seen: busy if is_write(seen) else "none") as proxy:
        summary = asyncio.run(run(proxy.base_url))
    assert ExitCode.SIGTERM == summary.exit_code
    assert 3 == summary.remaining


def test_a_403_stops_its_scope_alone_and_the_next_run_ends_it_once(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "abc" for number in range(10)]
    dump = write_raw(tmp_path / "all.json", rows)

    def forbid(seen: Seen) -> Fault:
        hit = is_write(seen) and f"{user}b remembers thing number 5".encode() in seen.body
        return refusing(403, "not in your region") if hit else "none"

    with misbehaving(spectron.base_url, forbid) as proxy:
        first = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert ExitCode.KEY == first.exit_code
    assert 25 == first.written
    assert 1 == first.in_doubt
    assert 4 == first.remaining
    second = replay(spectron, tmp_path / "state", [dump])
    assert ExitCode.DONE == second.exit_code
    assert 5 == second.written
    for letter in "abc":
        expected = [f"{user}{letter} remembers thing number {number}" for number in range(10)]
        assert expected == [turn.content for turn in turns_of(spectron, f"{user}{letter}")]


def test_a_malformed_retry_after_is_ignored(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    writes = 0

    def once(seen: Seen) -> Fault:
        nonlocal writes
        writes += is_write(seen)
        return refusing(503, "busy", "\u00b2") if is_write(seen) and writes == 1 else "none"

    with misbehaving(spectron.base_url, once) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert ExitCode.DONE == summary.exit_code
    assert 1 == summary.written


def test_a_server_that_dies_on_the_way_ends_the_run_with_a_remainder(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(30)])
    with running_server(tmp_path / "data", context="tests") as server:

        def die(seen: Seen) -> Fault:
            if seen.path.endswith("/facts") and seen.number == 20:
                server.kill()
            return "none"

        with misbehaving(server.base_url, die) as proxy:
            first = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert ExitCode.UNREACHABLE == first.exit_code
        assert 30 == first.written + first.in_doubt + first.remaining
        server.restart()
        second = replay(server, tmp_path / "state", [dump])
        assert ExitCode.DONE == second.exit_code
        assert 30 == first.written + second.written
        assert 30 == len(turns_of(server, user))


@pytest.mark.parametrize("what", ["/facts", "/sessions", "/scopes"])
@pytest.mark.parametrize(("most_s", "options"), [(1900.0, ReplayOptions()), (100.5, ReplayOptions(max_seconds=100.0))])
def test_a_retry_after_of_a_day_does_not_hold_up_the_run(
    spectron: RunningServer, user: str, tmp_path: Path, what: str, most_s: float, options: ReplayOptions
) -> None:
    waits = [0.0]

    def tomorrow(seen: Seen) -> Fault:
        throttled = seen.method == "POST" and seen.path.endswith(what) and MARKER.encode() not in seen.body
        return refusing(503, "later", "86400") if throttled else "none"

    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with misbehaving(spectron.base_url, tomorrow) as proxy:
        done = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, options=options, waited=waits.append
        )
    assert done.exit_code in (ExitCode.UNREACHABLE, ExitCode.LIMIT)
    assert waits[-1] <= most_s


def test_a_marker_that_is_throttled_for_a_day_ends_the_run_before_anything_is_written(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    waits = [0.0]

    def tomorrow(seen: Seen) -> Fault:
        return refusing(503, "later", "86400") if MARKER.encode() in seen.body else "none"

    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with misbehaving(spectron.base_url, tomorrow) as proxy:
        with pytest.raises(Unreachable, match="did not register"):
            replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, waited=waits.append)
        assert waits[-1] <= 100
        assert [] == turns_of(spectron, user)
        proxy.choose = lambda seen: "none"
        assert 1 == replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url).written


@pytest.mark.ledger_file  # of the disk
@pytest.mark.parametrize("room", [0, 1, 2, 4, 8])
def test_a_full_disk_is_an_error_and_loses_no_memory(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Wherever it is met: when planning, when intending, when keeping a receipt."""
    connect = ledger_file.connect

    def full(path: Path, *, read_only: bool) -> sqlite3.Connection:
        connection = connect(path, read_only=read_only)
        if path.name == "ledger.db" and not read_only:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + room}")
        return connection

    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(60)])
    with monkeypatch.context() as patched:
        patched.setattr(ledger_file, "connect", full)
        with pytest.raises(InputError, match="cannot be written: database or disk is full"):
            replay_in_no_time(spectron, tmp_path / "state", dump)
    done = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert ExitCode.DONE == done.exit_code
    assert 60 == len(set(texts(spectron, user)))
    assert 60 == len(texts(spectron, user))
