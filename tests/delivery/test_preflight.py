"""What is refused before anything is sent: another server, a wrong key, scopes of others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode, KeyRefused, NotLegal, Unreachable, WrongLedger
from spectron_migrate.local.testing import RunningServer, running_server
from spectron_migrate.migration.replay import ReplayOptions
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.paging import PAGE
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import forged, is_write
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow


def test_scopes_that_others_made_are_refused_before_anything_is_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    with pytest.raises(NotLegal, match=f"user/{user}"):
        replay(spectron, tmp_path / "lost-ledger", [dump])
    assert 1 == len(turns_of(spectron, user))


def test_a_lost_ledger_with_into_existing_meets_its_own_keys(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    summary = replay(spectron, tmp_path / "lost-ledger", [dump], options=ReplayOptions(into_existing=True))
    assert ExitCode.REFUSED == summary.exit_code
    assert 1 == summary.refused
    assert 1 == len(turns_of(spectron, user))


def test_a_fresh_server_behind_the_same_endpoint_is_noticed(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with running_server(context="tests") as first:
        replay(first, tmp_path / "state", [dump])
    more = write_raw(tmp_path / "more.json", [memory(1, user), memory(2, user)])
    with running_server(context="tests") as second, pytest.raises(WrongLedger, match="does not have what the ledger"):
        replay(second, tmp_path / "state", [more])


def test_a_wrong_key_and_a_server_that_is_down_leave_everything_planned(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with pytest.raises(KeyRefused, match="401"):
        replay(spectron, tmp_path / "state", [dump], api_key="wrong")
    with pytest.raises(Unreachable, match="no connection"):
        replay(spectron, tmp_path / "state", [dump], endpoint="http://127.0.0.1:9")
    assert 1 == replay(spectron, tmp_path / "state", [dump]).written


def test_a_ledger_with_nothing_but_doubt_is_not_carried_to_another_server(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    dump = write_raw(tmp_path / "all.json", rows)
    calls = 0

    def fall_silent(seen: Seen) -> Fault:
        nonlocal calls
        calls += is_write(seen)
        return "cut_after" if calls else "none"

    with misbehaving(spectron.base_url, fall_silent) as proxy:
        first = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 0 == first.written
    assert first.in_doubt > 0
    with server_here(tmp_path / "other", context="tests") as other:
        with pytest.raises(WrongLedger):
            replay(other, tmp_path / "state", [dump])
        assert [] == turns_of(other, f"{user}a") + turns_of(other, f"{user}b")


def test_a_malformed_listing_of_scopes_does_not_make_foreign_scopes_ours(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    listings = 0

    def empty_once(seen: Seen, _: bytes) -> bytes | None:
        nonlocal listings
        if seen.method != "GET" or "/scopes" not in seen.path:
            return None
        listings += 1
        return b'{"message":"try again"}' if listings == 1 else None

    forged(monkeypatch, empty_once)
    with misbehaving(spectron.base_url) as proxy, pytest.raises((NotLegal, Unreachable)):
        replay(spectron, tmp_path / "lost", [dump], endpoint=proxy.base_url)
    assert 1 == len(turns_of(spectron, user))


def test_scopes_beyond_the_first_page_of_a_bare_list_are_seen_as_foreign(user: str, tmp_path: Path) -> None:
    """A server of the first generation cuts the list at the limit without saying so."""
    dump = write_raw(tmp_path / "all.json", [memory(1, f"z{user}")])

    async def register_many(server: RunningServer) -> None:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key, timeout_s=20.0) as api:
            for number in range(PAGE + 20):
                assert 201 == (await api.register_scope(f"user/a{number:04d}")).status

    with server_here(tmp_path / "data", context="tests") as server:
        asyncio.run(register_many(server))
        replay(server, tmp_path / "first", [dump])
        with pytest.raises(NotLegal, match=f"user/z{user}"):
            replay(server, tmp_path / "lost-ledger", [dump])
        assert 1 == len(turns_of(server, f"z{user}"))
