"""Sessions side by side for facts without order, tokens, signals, and ledgers of an earlier version."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from spectron_migrate.delivery.tokens import estimate_tokens
from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError, Interrupted
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover, receipts
from spectron_migrate.ledger.schema import MIGRATIONS, VERSION
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay, ReplayOptions
from spectron_migrate.records import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.delivery.playing import mapping_file, replay_in_no_time
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.spectron import memory, turns_of, write_raw

NONE = "infer: none\nsession: {by: run_id, size: 5}\n"


def test_a_scope_runs_parallel_through_several_open_sessions_without_extraction(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(43)])
    with misbehaving(spectron.base_url) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, NONE)
        )
        order = [json.loads(seen.body)["session_id"] for seen in proxy.seen if seen.writes_fact]
    assert (ExitCode.DONE, 43) == (summary.exit_code, summary.written)
    assert 9 <= summary.sessions <= 14, "as many as one after the other, but for those that are not full at the end"
    assert len(set(order[:9])) > 1, "sessions take turns"
    sessions: dict[str, list[int]] = {}
    for turn in turns_of(spectron, user):
        sessions.setdefault(turn.session, []).append(turn.seq)
    assert all(len(seqs) <= 5 and seqs == sorted(seqs) for seqs in sessions.values())


def test_places_that_one_stream_has_reserved_in_a_full_session_no_other_stream_takes(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """A stream fills several short sessions before the first of its places is on disk."""
    rows = [memory(number, user, run_id=None if number % 3 else "r1") for number in range(200)]
    mapping = mapping_file(tmp_path, "infer: none\nsession: {by: run_id, size: 2}\n")
    summary = replay_in_no_time(spectron, tmp_path / "state", write_raw(tmp_path / "all.json", rows), mapping=mapping)
    assert (ExitCode.DONE, 200) == (summary.exit_code, summary.written)
    sessions = Counter(turn.session for turn in turns_of(spectron, user))
    assert {1, 2} >= set(sessions.values())


def test_of_facts_without_extraction_one_is_undecided_in_a_session_and_never_two(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(40)])
    state = tmp_path / "state"
    undecided: list[int] = []

    def look(seen: Seen) -> Fault:
        if seen.writes_fact:
            session = json.loads(seen.body)["session_id"]
            with Ledger.open_for_reading(state) as ledger:
                rows = ledger.db.execute(
                    "SELECT key FROM fact JOIN session ON session.id = fact.session WHERE server_id = ?"
                    " AND fact.state = 'intended' ORDER BY position",
                    (session,),
                ).fetchall()
            # What was sent before it in its session is decided, or its receipt is on its way to the disk.
            undecided.append([row["key"] for row in rows].index(seen.headers["idempotency-key"]))
        return "none"

    with misbehaving(spectron.base_url, look) as proxy:
        replay_in_no_time(spectron, state, dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, NONE))
    assert 40 == len(undecided)


def test_doubt_holds_one_session_and_the_others_go_on(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(30)])

    def cut_one(seen: Seen) -> Fault:
        return "cut_before" if seen.writes_fact and b'number 7"' in seen.body else "none"

    mapping = mapping_file(tmp_path, NONE)
    with misbehaving(spectron.base_url, cut_one) as proxy:
        first = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    assert (ExitCode.UNREACHABLE, 29, 1) == (first.exit_code, first.written, first.in_doubt)
    second = replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping)
    assert (ExitCode.DONE, 1) == (second.exit_code, second.written)
    assert 30 == len(turns_of(spectron, user))


def test_a_session_that_was_refused_with_retry_after_is_no_orphan(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    opened = 0

    def busy(seen: Seen) -> Fault:
        nonlocal opened
        opened += seen.path.endswith("/sessions")
        if not seen.path.endswith("/sessions") or opened > 4:
            return "none"
        return "cut_after" if opened == 4 else refusing(503, "busy", "1")

    with misbehaving(spectron.base_url, busy) as proxy:
        summary = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert (ExitCode.DONE, 3) == (summary.exit_code, summary.written)
    assert 1 == summary.orphans, "the one whose answer was cut, not those that the server did not make"
    assert "3 answers 503" in (summary.slowed_down or "")


def test_the_tokens_that_were_set_are_not_exceeded(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, user) for number in range(10)]
    dump = write_raw(tmp_path / "all.json", rows)
    each = estimate_tokens(rows[0]["memory"], "full")[1]
    first = replay_in_no_time(
        spectron, tmp_path / "state", dump, options=ReplayOptions(max_tokens=4 * each + each // 2)
    )
    assert (ExitCode.LIMIT, 4, 6, 4 * each) == (first.exit_code, first.written, first.remaining, first.tokens)
    second = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert (ExitCode.DONE, 6) == (second.exit_code, second.written)


def test_tokens_are_counted_as_the_server_tells_them_where_it_does(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
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
    assert (ExitCode.DONE, 10, 50) == (summary.exit_code, summary.written, summary.tokens)


def test_a_signal_does_not_wait_for_reads_before_the_first_write(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])

    async def run(endpoint: str) -> None:
        step: Replay

        async def sleep(_: float) -> None:
            step.interrupt(ExitCode.SIGTERM)
            await asyncio.Event().wait()  # a read that is tried again much later

        async with SpectronApi(endpoint, spectron.context, api_key=spectron.api_key, sleep=sleep) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    tmp_path / "state",
                    opened,
                    load_mapping(None),
                    ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                )
                await asyncio.wait_for(step.run(api), 5)

    with (
        misbehaving(spectron.base_url, lambda seen: "503") as proxy,
        pytest.raises(Interrupted, match="before anything was sent") as told,
    ):
        asyncio.run(run(proxy.base_url))
    assert ExitCode.SIGTERM == told.value.exit_code


def as_version(version: int, state: Path) -> None:
    """Take away what later versions added: indexes first, tables last."""
    since = "".join(MIGRATIONS[each] for each in range(version, VERSION))
    added = re.findall(r"CREATE (INDEX|TABLE) (\w+)|ALTER TABLE (\w+) ADD COLUMN (\w+)", since)
    with sqlite3.connect(state / "ledger.db") as db:
        for kind, name, table, column in sorted(added, key=lambda one: ("INDEX", "", "TABLE").index(one[0])):
            db.execute(f"DROP {kind} {name}" if kind else f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_ledger_of_an_earlier_version_is_read_as_it_is_and_goes_on_when_it_is_written(
    spectron: RunningServer, user: str, tmp_path: Path, version: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    replay_in_no_time(spectron, tmp_path / "state", dump, options=ReplayOptions(limit=7))
    as_version(version, tmp_path / "state")
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert 7 == len(list(receipts.receipts(ledger)))
        assert (20, {}, {}) == (
            cutover.count_living([ledger]),
            cutover.moved_memories([ledger]),
            cutover.refused_memories([ledger]),
        )
        assert version == ledger.db.execute("PRAGMA user_version").fetchone()[0]
    second = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert (ExitCode.DONE, 13, 7) == (second.exit_code, second.written, second.already)
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert VERSION == ledger.db.execute("PRAGMA user_version").fetchone()[0]
    assert 20 == len(turns_of(spectron, user))


def test_a_ledger_of_a_version_to_come_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay_in_no_time(spectron, tmp_path / "state", dump)
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(InputError, match=f"has format {VERSION + 1}, this version reads formats 1 to {VERSION}"):
        replay_in_no_time(spectron, tmp_path / "state", dump)
