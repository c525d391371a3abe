"""Scopes and sessions: registered and opened before a fact uses them, whatever the server answers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from spectron_migrate import SpectronClient
from spectron_migrate.errors import ExitCode, NotLegal
from spectron_migrate.local.faults import Fault as Stored
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.proxy import CannedAnswer, Fault, Seen, misbehaving, refusing
from tests.support.replaying import expected_texts, forged, mapping_file, one_session_for_all, replay_in_no_time, texts
from tests.support.spectron import memory, register_scope, replay, turns_of, write_raw

pytestmark = pytest.mark.slow


def test_a_run_takes_sessions_of_its_own_and_none_is_larger_than_the_mapping_says(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, user, run_id=f"run{number % 2}" if number < 6 else None) for number in range(16)]
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "version: 1\nrules:\n  - when: {user_id: '*'}\n    scope: {user: '{user_id}'}\nsession: {by: run_id, size: 4}\n"
    )
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)], mapping=mapping)
    sessions: dict[str, list[int]] = {}
    for turn in turns_of(spectron, user):
        sessions.setdefault(turn.session, []).append(turn.seq)
    assert [2, 3, 3, 4, 4] == sorted(len(each) for each in sessions.values())
    assert all(each == sorted(each) for each in sessions.values())


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
    assert ExitCode.DONE == summary.exit_code
    assert 3 == summary.written
    assert 1 == summary.orphans, "the one whose answer was cut, not those that the server did not make"
    assert "3 answers 503" in (summary.slowed_down or "")


def test_one_scope_that_the_server_will_not_register_does_not_stop_the_others(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "abcdefgh" for number in range(20)]
    dump = write_raw(tmp_path / "all.json", rows)

    def refuse_scope(seen: Seen) -> Fault:
        return "400" if seen.path.endswith("/scopes") and f"{user}c".encode() in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_scope) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 140 == summary.written


def test_a_session_opened_in_another_scope_ends_the_run(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def elsewhere(seen: Seen, body: bytes) -> bytes | None:
        if not seen.path.endswith("/sessions"):
            return None
        return json.dumps({**json.loads(body), "scopes": [["somewhere/else/"]]}).encode()

    forged(monkeypatch, elsewhere)
    with misbehaving(spectron.base_url) as proxy, pytest.raises(NotLegal, match="somewhere/else"):
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert [] == turns_of(spectron, user)


@pytest.mark.parametrize("settings", ["infer: full\n", "infer: none\n"])
@pytest.mark.parametrize("status", [404, 403])
def test_what_is_left_of_a_session_that_ended_goes_on_in_a_new_one(
    spectron: RunningServer, user: str, tmp_path: Path, status: int, settings: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])
    ended: set[str] = set()

    def end_after_some(seen: Seen) -> Fault:
        if "/turns" in seen.path:
            return refusing(404, "no such session") if seen.path.split("/")[-2] in ended else "none"
        if not seen.writes_fact:
            return "none"
        session = json.loads(seen.body)["session_id"]
        if b"number 5" in seen.body and not ended:
            ended.add(session)
        return refusing(status, "unknown session") if session in ended else "none"

    with misbehaving(spectron.base_url, end_after_some) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, settings)
        )
    assert ExitCode.DONE == summary.exit_code
    assert expected_texts(user, 12) == texts(spectron, user)


@pytest.mark.parametrize("settings", ["infer: full\n", "infer: none\n", "infer: none\nwrite: batch\n"])
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "session is closed"),
        (410, "gone"),
        (400, "session sess_1 has expired"),
        (422, "the session_id was archived"),
    ],
)
def test_what_is_left_of_a_session_that_is_closed_to_writes_and_still_listed_goes_on_in_a_new_one(
    spectron: RunningServer, user: str, tmp_path: Path, status: int, says: str, settings: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(70)])
    closed: set[str] = set()

    def close_after_some(seen: Seen) -> Fault:
        if not seen.writes_fact:
            return "none"
        session = json.loads(seen.body)["session_id"]
        if b"number 40" in seen.body and not closed:
            closed.add(session)
        return refusing(status, says) if session in closed else "none"

    with misbehaving(spectron.base_url, close_after_some) as proxy:
        summary = replay_in_no_time(
            spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping_file(tmp_path, settings)
        )
    assert ExitCode.DONE == summary.exit_code
    assert sorted(expected_texts(user, 70)) == sorted(texts(spectron, user))


@pytest.mark.parametrize("status", [404, 410, 413, 422])
def test_what_a_server_stored_and_refused_all_the_same_is_there_once(
    spectron: RunningServer, user: str, tmp_path: Path, status: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(6)])
    stored = Stored(key="forgotten", shown=CannedAnswer(status, "no such session"))

    def choose(seen: Seen) -> Fault:
        return stored if seen.writes_fact and b"number 3" in seen.body else "none"

    with misbehaving(spectron.base_url, choose) as proxy:
        replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert expected_texts(user, 6) == texts(spectron, user)


def test_a_server_that_ends_every_session_is_given_up(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    requests = 0

    def never(seen: Seen) -> Fault:
        nonlocal requests
        requests += 1
        return refusing(404, "unknown session") if seen.writes_fact or "/turns" in seen.path else "none"

    with misbehaving(spectron.base_url, never) as proxy:
        summary = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert ExitCode.REFUSED == summary.exit_code
    assert 30 > requests


def test_a_server_that_gives_one_session_twice_ends_the_run(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])
    one_session_for_all(monkeypatch)
    with misbehaving(spectron.base_url) as proxy, pytest.raises(NotLegal, match="opened before"):
        replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(tmp_path, "infer: none\nsession: {by: run_id, size: 5}\n"),
        )
    assert 12 > len(turns_of(spectron, user))


@pytest.mark.parametrize("more", ["", "infer: none\n"])
def test_what_others_said_in_an_older_session_that_the_server_gives_is_not_taken_for_a_memory_in_doubt(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    register_scope(spectron, f"user/{user}")
    older: list[str] = []

    async def say() -> None:
        async with SpectronClient(
            base_url=spectron.base_url, api_key=spectron.api_key, context=spectron.context
        ).sessions.create(scope={"user": user}) as session:
            await session.remember("Said by an application", infer="none")
            older.append(session.id)

    asyncio.run(say())
    with sqlite3.connect(spectron.database) as db:
        db.execute("UPDATE turn SET created_at = '2026-01-01T00:00:00Z' WHERE session = ?", (older[0],))
    db.close()
    one_session_for_all(monkeypatch, older[0])
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    faults = iter(["cut_before"])
    with misbehaving(spectron.base_url, lambda seen: next(faults, "none") if seen.writes_fact else "none") as proxy:
        summary = replay_in_no_time(
            spectron,
            tmp_path / "state",
            dump,
            endpoint=proxy.base_url,
            mapping=mapping_file(tmp_path, more),
            options=ReplayOptions(into_existing=True),
        )
    assert (ExitCode.REFUSED, 0, 1) == (summary.exit_code, summary.written, summary.undecidable)
