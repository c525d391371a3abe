"""What is refused before anything is sent: another server, a wrong key, scopes of others."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from spectron_migrate.delivery import preflight
from spectron_migrate.errors import KeyRefused, NotLegal, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger, markers
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from spectron_migrate.spectron.paging import PAGE
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, gated, misbehaving
from tests.support.replaying import forged, is_write
from tests.support.spectron import memory, register_scope, replay, turns_of, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.both_engines]


def test_who_the_key_is_and_which_scopes_there_are_is_asked_at_once(tmp_path: Path) -> None:
    """Neither is answered before both are asked; the list before the plan is for a cutover that is complete."""
    dump = write_raw(tmp_path / "all.json", [memory(1, "ann")])
    # A server of its own, whose scopes are one page of the list.
    with server_here(tmp_path / "data", context="tests") as server, gated(server.base_url) as gate:

        def asked(path: str) -> int:
            return sum(seen.method == "GET" and seen.path.endswith(path) for seen in gate.seen)

        gate.shut = lambda seen: (asked("/scopes") > 1) != (asked("/me") > 0)
        assert 1 == replay(server, tmp_path / "state", [dump], endpoint=gate.base_url).written


def test_a_lost_ledger_finds_its_marker_before_anything_is_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay(spectron, tmp_path / "first", [dump])
    for options in (ReplayOptions(), ReplayOptions(into_existing=True)):
        with pytest.raises(WrongLedger, match=r"another ledger .* it left user/x---m"):
            replay(spectron, tmp_path / "lost-ledger", [dump], options=options)
    assert 1 == len(turns_of(spectron, user))


def test_scopes_that_others_made_are_refused_before_anything_is_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    register_scope(spectron, f"user/{user}")
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with pytest.raises(NotLegal, match=f"user/{user}"):
        replay(spectron, tmp_path / "state", [dump])
    assert [] == turns_of(spectron, user)


def test_a_scope_that_others_made_between_two_runs_is_refused(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    source = tmp_path / "all.json"
    replay(spectron, tmp_path / "state", [write_raw(source, [memory(1, user)])])
    register_scope(spectron, f"user/{user}b")
    more = write_raw(tmp_path / "more.json", [memory(1, user), memory(2, f"{user}b")])
    with pytest.raises(NotLegal, match=f"user/{user}b"):
        replay(spectron, tmp_path / "state", [more])
    assert [] == turns_of(spectron, f"{user}b")


def test_a_scope_that_applications_made_after_complete_is_not_foreign(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user)])])
    register_scope(spectron, f"user/{user}b")
    more = write_raw(tmp_path / "more.json", [memory(1, user), memory(2, f"{user}b")])
    assert 1 == replay(spectron, tmp_path / "state", [more], options=ReplayOptions(supersede=False)).written


def test_a_key_that_may_not_make_the_marker_is_warned_of_in_every_run(user: str, tmp_path: Path) -> None:
    rows = [memory(number, user) for number in range(4)]
    grants = {verb: [f"user/{user}/*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
    principals = {"narrow": {"key": "sk-narrow", "grants": grants}}
    reporter = NullReporter()
    with server_here(tmp_path / "data", context="tests", principals=principals) as server:
        for count in (1, 2, 4):
            dump = write_raw(tmp_path / f"{count}.json", rows[:count])
            replay(server, tmp_path / "state", [dump], api_key="sk-narrow", reporter=reporter)
        assert 4 == len(turns_of(server, user))
    assert 3 == len([each for each in reporter.warnings if "without this marker" in each])
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert ["user"] == list(markers.lacking(ledger))


def test_the_ci_template_runs_twice_each_time_into_a_fresh_prefix(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """Each time with a fresh ledger; a third time into the first prefix is refused."""
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    mappings = []
    for number in (1, 2):
        mapping = tmp_path / f"mapping{number}.yaml"
        mapping.write_text(
            f"version: 1\nrules:\n  - when: {{user_id: '*'}}\n    scope: {{ci: {user}-{number}, user: '{{user_id}}'}}\n"
        )
        assert 1 == replay(spectron, tmp_path / f"state{number}", [dump], mapping=mapping).written
        mappings.append(mapping)
    with pytest.raises(WrongLedger, match=f"it left ci/{user}-1/user/x---m"):
        replay(spectron, tmp_path / "state3", [dump], mapping=mappings[0])


def test_a_ledger_with_nothing_but_a_listing_lists_another_endpoint_anew(user: str, tmp_path: Path) -> None:
    """Refused at one server, it goes to another, where the scope of a stranger is foreign as well."""
    dump = write_raw(tmp_path / "all.json", [memory(1, user), memory(1, f"{user}b")])
    state = tmp_path / "state"
    with server_here(tmp_path / "first", context="tests") as first:
        register_scope(first, f"user/{user}")
        with pytest.raises(NotLegal, match=f"user/{user}"):
            replay(first, state, [dump])
    with server_here(tmp_path / "second", context="tests") as second:
        register_scope(second, f"user/{user}b")
        with pytest.raises(NotLegal, match=f"wrote there: user/{user}b"):
            replay(second, state, [dump])
    with server_here(tmp_path / "third", context="tests") as third:
        assert 2 == replay(third, state, [dump]).written


def test_a_ledger_whose_sessions_were_never_answered_is_not_carried_to_another_server(
    user: str, tmp_path: Path
) -> None:
    """The same server under another address shows the marker."""
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    state = tmp_path / "state"
    with server_here(tmp_path / "first", context="tests") as first:
        with misbehaving(first.base_url, lambda seen: "cut_after" if "/sessions" in seen.path else "none") as proxy:
            assert 0 == replay(first, state, [dump], endpoint=proxy.base_url).written
        with (
            server_here(tmp_path / "second", context="tests") as second,
            pytest.raises(WrongLedger, match="nothing shows that"),
        ):
            replay(second, state, [dump])
        assert 1 == replay(first, state, [dump]).written


def test_two_migrations_of_different_files_into_one_context_do_not_hinder_each_other(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    for letter in "ab":
        dump = write_raw(tmp_path / f"{letter}.json", [memory(1, f"{user}{letter}")])
        assert 1 == replay(spectron, tmp_path / letter, [dump]).written


def test_a_fresh_server_behind_the_same_endpoint_is_noticed(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    with server_here(context="tests") as first:
        replay(first, tmp_path / "state", [dump])
    more = write_raw(tmp_path / "more.json", [memory(1, user), memory(2, user)])
    with server_here(context="tests") as second, pytest.raises(WrongLedger, match="does not have what the ledger"):
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
        with pytest.raises(WrongLedger, match="user/x---m"):
            replay(server, tmp_path / "lost-ledger", [dump])
        assert 1 == len(turns_of(server, f"z{user}"))


def test_a_server_that_was_restored_is_refused_although_an_old_session_is_whole(user: str, tmp_path: Path) -> None:
    """Its newest session is gone, the one before is whole, and the oldest lacks what was written to it last."""
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    later = [*rows, memory(3, f"{user}a"), memory(0, f"{user}c")]
    state, data = tmp_path / "state", tmp_path / "data"
    with server_here(data, context="tests") as server:
        for part in (rows[:3], rows):
            replay(server, state, [write_raw(tmp_path / "all.json", part)])
    shutil.copytree(data, tmp_path / "backup")
    with server_here(data, context="tests") as server:
        replay(server, state, [write_raw(tmp_path / "all.json", later)])
    with server_here(tmp_path / "backup", context="tests") as server, pytest.raises(WrongLedger, match="does not have"):
        replay(server, state, [tmp_path / "all.json"])


def test_a_server_that_lacks_the_last_turn_of_an_old_session_is_refused(user: str, tmp_path: Path) -> None:
    """A round of following writes to old sessions; nothing is left to write, and the newest session is whole."""
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    state, data = tmp_path / "state", tmp_path / "data"
    with server_here(data, context="tests") as server:
        for part in (rows[:3], rows):
            replay(server, state, [write_raw(tmp_path / "all.json", part)])
    shutil.copytree(data, tmp_path / "backup")
    with server_here(data, context="tests") as server:
        replay(server, state, [write_raw(tmp_path / "all.json", [*rows, memory(3, f"{user}a")])])
    with server_here(tmp_path / "backup", context="tests") as server, pytest.raises(WrongLedger, match="1 of 4 turns"):
        replay(server, state, [tmp_path / "all.json"])


@pytest.fixture
def two_sessions(spectron: RunningServer, user: str, tmp_path: Path) -> list[Memory | dict[str, object]]:
    """The memories of two users that were written; that of the second one was planned last."""
    rows: list[Memory | dict[str, object]] = [memory(1, f"{user}a"), memory(2, f"{user}b")]
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", rows)])
    return rows


def short_limits(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Only the first listings are waited for no longer than a moment; they are those that hang."""
    limits = iter([0.2] * count)
    limited = SimpleNamespace(timeout=lambda seconds: asyncio.timeout(next(limits, seconds)))
    monkeypatch.setattr(preflight, "asyncio", limited)


def test_a_hanging_listing_of_the_session_that_was_planned_last_holds_only_its_user(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    two_sessions: list[Memory | dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [hanging] = {turn.session for turn in turns_of(spectron, f"{user}b")}
    short_limits(monkeypatch, 1)
    more = write_raw(tmp_path / "more.json", [*two_sessions, memory(3, f"{user}a")])
    with gated(spectron.base_url) as gate:
        gate.shut = lambda seen: hanging in seen.path
        assert 1 == replay(spectron, tmp_path / "state", [more], endpoint=gate.base_url).written


def test_a_restored_server_is_refused_however_short_a_listing_is_waited_for(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that lacks a turn is listed, again and again: it does not hang."""
    rows = [memory(number, f"{user}{letter}") for letter in "ab" for number in range(3)]
    state, data = tmp_path / "state", tmp_path / "data"
    with server_here(data, context="tests") as server:
        replay(server, state, [write_raw(tmp_path / "all.json", rows)])
    shutil.copytree(data, tmp_path / "backup")
    with server_here(data, context="tests") as server:
        replay(server, state, [write_raw(tmp_path / "all.json", [*rows, memory(3, f"{user}a")])])
    short_limits(monkeypatch, 1)
    with server_here(tmp_path / "backup", context="tests") as server, pytest.raises(WrongLedger, match="1 of 4 turns"):
        replay(server, state, [tmp_path / "all.json"], sleep=asyncio.sleep)


def test_where_no_session_is_listed_nobody_knows_the_server_and_nothing_is_sent(
    spectron: RunningServer,
    user: str,
    tmp_path: Path,
    two_sessions: list[Memory | dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_limits(monkeypatch, 2)
    more = write_raw(tmp_path / "more.json", [*two_sessions, memory(3, f"{user}a")])
    with gated(spectron.base_url) as gate:
        gate.shut = lambda seen: seen.path.endswith("/turns")
        with pytest.raises(Unreachable, match="does not list session"):
            replay(spectron, tmp_path / "state", [more], endpoint=gate.base_url)
        assert not any(seen.writes_fact for seen in gate.seen)
