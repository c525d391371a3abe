"""Streams of facts without extraction side by side, each in sessions of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import mapping_file, replay_in_no_time
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

SHORT_SESSIONS = "infer: none\nsession: {by: run_id, size: 5}\n"


def test_a_scope_runs_parallel_through_several_open_sessions_without_extraction(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(43)])
    with misbehaving(spectron.base_url) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, SHORT_SESSIONS)
        )
        order = [json.loads(seen.body)["session_id"] for seen in proxy.seen if seen.writes_fact]
    assert ExitCode.DONE == summary.exit_code
    assert 43 == summary.written
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
    assert ExitCode.DONE == summary.exit_code
    assert 200 == summary.written
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
        replay_in_no_time(
            spectron, state, dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, SHORT_SESSIONS)
        )
    assert 40 == len(undecided)


def test_doubt_holds_one_session_and_the_others_go_on(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(30)])

    def cut_one(seen: Seen) -> Fault:
        return "cut_before" if seen.writes_fact and b'number 7"' in seen.body else "none"

    mapping = mapping_file(tmp_path, SHORT_SESSIONS)
    with misbehaving(spectron.base_url, cut_one) as proxy:
        first = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)
    assert ExitCode.UNREACHABLE == first.exit_code
    assert 29 == first.written
    assert 1 == first.in_doubt
    second = replay_in_no_time(spectron, tmp_path / "state", dump, mapping=mapping)
    assert ExitCode.DONE == second.exit_code
    assert 1 == second.written
    assert 30 == len(turns_of(spectron, user))


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00", "1970-01-01T00:00:00Z"])
def test_a_time_that_stands_for_none_is_sent_without_time_and_extraction(
    spectron: RunningServer, user: str, tmp_path: Path, at: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user, at=at), memory(1, user)])
    with misbehaving(spectron.base_url) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    bodies = {body["text"][-1]: body for body in (json.loads(seen.body) for seen in proxy.seen if seen.writes_fact)}
    assert "none" == bodies["0"]["infer"]
    assert "observed_at" not in bodies["0"]
    assert "full" == bodies["1"]["infer"]
