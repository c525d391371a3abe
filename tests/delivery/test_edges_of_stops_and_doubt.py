"""Doubt, limits and stops: what is left, what is said of it, and that every run ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, NotLegal, Unreachable, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay import Replay, ReplayOptions, ReplaySummary
from spectron_migrate.records import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.here import server_here
from tests.support.proxy import Fault, Proxy, Seen, misbehaving, refusing
from tests.support.spectron import memory, replay, turns_of, write_raw


def is_write(seen: Seen) -> bool:
    """Whether a request writes a fact."""
    return seen.method == "POST" and seen.path.endswith("/facts")


def unclaimed(state: Path, server: RunningServer, user: str) -> int:
    """Turns in the user's scopes that the ledger knows neither as receipt nor as residue."""
    with Ledger.open_for_reading(state) as ledger:
        rows = ledger.db.execute("SELECT turn_id, residue FROM fact").fetchall()
    known = {row["turn_id"] for row in rows if row["turn_id"]}
    known |= {turn for row in rows if row["residue"] for turn in json.loads(row["residue"])}
    return len(turns_of(server, user)) - len(known)


async def nap(_: float) -> None:
    """Waiting that takes no time."""
    await asyncio.sleep(0)


def forged(monkeypatch: pytest.MonkeyPatch, change: Callable[[Seen, bytes], bytes | None]) -> None:
    """Answers of the server, changed on their way by `change(request, answer body) -> body or None`."""
    monkeypatch.setattr(Proxy, "change", lambda _, seen, body: change(seen, body))


# -- residue and poison -----------------------------------------------------------------------------------


def test_what_a_second_500_leaves_behind_is_listed_as_residue(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    with server_here(
        tmp_path / "data",
        context="tests",
        fault_settings={"plan": ["none", "500_after_released", "500_after_released"]},
    ) as server:
        summary = replay(server, tmp_path / "state", [dump])
        assert 3 == summary.written
        assert 0 == unclaimed(tmp_path / "state", server, user)


def test_what_the_server_left_behind_makes_no_later_fact_of_the_session_undecidable(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(6)])
    with server_here(
        tmp_path / "data",
        context="tests",
        fault_settings={"plan": ["none", *["500_after_released"] * 2, "none", "500_after_released"]},
    ) as server:
        summary = replay(server, tmp_path / "state", [dump])
        assert (ExitCode.DONE, 6, 0) == (summary.exit_code, summary.written, summary.undecidable)


def test_a_fact_is_given_up_only_after_a_last_look_at_the_turns(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    tries = 0

    def stored_at_last(seen: Seen) -> Fault:
        nonlocal tries
        if not is_write(seen) or b"number 1" not in seen.body:
            return "none"
        tries += 1
        return "500_before" if tries < 7 else "500_after"

    with misbehaving(spectron.base_url, stored_at_last) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert 3 - summary.refused == len(turns_of(spectron, user))
    assert 0 == unclaimed(tmp_path / "state", spectron, user)


def test_a_key_stuck_in_flight_is_decided_by_its_turn_when_patience_ends(user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    moment = 0.0
    naps = 0

    async def sleep(seconds: float) -> None:
        nonlocal moment, naps
        moment += seconds
        naps += 1
        await asyncio.sleep(0)

    async def run(server: RunningServer) -> ReplaySummary:
        async with SpectronApi(server.base_url, server.context, api_key=server.api_key, sleep=sleep) as api:
            with open_any([dump]) as opened:
                step = Replay(
                    tmp_path / "state",
                    opened,
                    load_mapping(None),
                    ReplayOptions(),
                    reporter=NullReporter(),
                    sleep=sleep,
                    clock=lambda: moment,
                )
                return await step.run(api)

    with server_here(
        tmp_path / "data", context="tests", fault_settings={"plan": ["none", "500_after_stuck"]}
    ) as server:
        summary = asyncio.run(run(server))
    # The texts of this test state nothing that could be extracted, so the state alone tells nothing.
    assert (ExitCode.DONE, 3, 0) == (summary.exit_code, summary.written, summary.in_doubt)
    assert naps < 300, "waits grow while a key is in flight"


# -- limits and stops -------------------------------------------------------------------------------------


def test_a_limit_holds_over_all_lanes_together(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    rows = [memory(number, f"{user}{letter}") for letter in "abcdefgh" for number in range(10)]
    dump = write_raw(tmp_path / "all.json", rows)
    summary = replay(spectron, tmp_path / "state", [dump], options=ReplayOptions(limit=5))
    assert (ExitCode.LIMIT, 5, 75) == (summary.exit_code, summary.written, summary.remaining)


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
    assert (ExitCode.SIGTERM, 3) == (summary.exit_code, summary.remaining)


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


def test_a_limit_with_a_remainder_is_told_also_where_memories_were_refused(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(5)])

    def refuse_first(seen: Seen) -> Fault:
        return "400" if is_write(seen) and b"number 0" in seen.body else "none"

    with misbehaving(spectron.base_url, refuse_first) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, options=ReplayOptions(limit=2))
    assert (1, 1, 3) == (summary.refused, summary.written, summary.remaining)
    assert ExitCode.LIMIT == summary.exit_code, "3 says done, and it is not done"


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
    assert (ExitCode.KEY, 25, 1, 4) == (first.exit_code, first.written, first.in_doubt, first.remaining)
    second = replay(spectron, tmp_path / "state", [dump])
    assert (ExitCode.DONE, 5) == (second.exit_code, second.written)
    for letter in "abc":
        expected = [f"{user}{letter} remembers thing number {number}" for number in range(10)]
        assert expected == [turn.content for turn in turns_of(spectron, f"{user}{letter}")]


# -- answers that are not what they should be ---------------------------------------------------------------


def test_a_session_opened_in_another_scope_ends_the_run_with_one_sentence(
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


def test_a_write_answered_for_another_session_is_undecidable_and_exit_3(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])

    def other_session(seen: Seen, body: bytes) -> bytes | None:
        if not is_write(seen):
            return None
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode()

    forged(monkeypatch, other_session)
    with misbehaving(spectron.base_url) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert (1, 2) == (summary.undecidable, summary.remaining)
    assert ExitCode.REFUSED == summary.exit_code


@pytest.mark.parametrize(
    "body", [b"<html>welcome to the hotel</html>", b'"busy"', b"null", b'{"turns":[{"content":1}]}']
)
def test_a_listing_that_is_none_is_no_crash(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    forged(monkeypatch, lambda seen, _: body if "/turns" in seen.path else None)

    def cut_second(seen: Seen) -> Fault:
        return "cut_before" if is_write(seen) and b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, cut_second) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert (ExitCode.UNREACHABLE, 1, 1, 1) == (
        summary.exit_code,
        summary.written,
        summary.in_doubt,
        summary.remaining,
    )


def test_a_200_that_is_no_listing_is_no_evidence_that_nothing_is_there(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    writes = 0

    def cut_first(seen: Seen) -> Fault:
        nonlocal writes
        writes += is_write(seen)
        return "cut_after" if is_write(seen) else "none"

    forged(monkeypatch, lambda seen, _: b'{"message":"try again"}' if "/turns" in seen.path else None)
    with misbehaving(spectron.base_url, cut_first) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert (1, 1) == (writes, summary.in_doubt)


def test_an_earlier_text_that_is_undecidable_is_no_exit_0(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_raw(tmp_path / "a.json", [memory(1, user, "likes tea")])
    gone = memory(1, user, "likes coffee", updated_at="2025-03-01T00:00:00+00:00", expiration_date="2025-04-01")
    after = write_raw(tmp_path / "b.json", [gone])

    def other_session(seen: Seen, body: bytes) -> bytes | None:
        return json.dumps({**json.loads(body), "sessionId": "sess_other"}).encode() if is_write(seen) else None

    forged(monkeypatch, other_session)
    with misbehaving(spectron.base_url) as proxy:
        first = replay(spectron, tmp_path / "state", [before], endpoint=proxy.base_url)
    assert 1 == first.undecidable
    second = replay(spectron, tmp_path / "state", [after])
    assert ExitCode.REFUSED == second.exit_code


def test_a_listing_of_scopes_that_is_none_does_not_make_foreign_scopes_ours(
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


def test_a_retry_after_that_is_no_number_is_no_crash(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    writes = 0

    def once(seen: Seen) -> Fault:
        nonlocal writes
        writes += is_write(seen)
        return refusing(503, "busy", "\u00b2") if is_write(seen) and writes == 1 else "none"

    with misbehaving(spectron.base_url, once) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert (ExitCode.DONE, 1) == (summary.exit_code, summary.written)


# -- another server, another key ----------------------------------------------------------------------------


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
    assert (0, True) == (first.written, first.in_doubt > 0)
    with server_here(tmp_path / "other", context="tests") as other:
        with pytest.raises(WrongLedger):
            replay(other, tmp_path / "state", [dump])
        assert [] == turns_of(other, f"{user}a") + turns_of(other, f"{user}b")


def test_keys_of_another_principal_are_not_trusted_when_the_first_one_comes_back(user: str, tmp_path: Path) -> None:
    everything = {verb: ["*"] for verb in ("memory:read", "memory:write", "scope:read", "scope:create")}
    principals = {name: {"key": f"sk-{name}", "grants": everything} for name in ("ann", "bob")}
    users = [f"{user}{letter}" for letter in "ab"]
    one = write_raw(tmp_path / "one.json", [memory(number, users[0]) for number in range(3)])
    both = write_raw(tmp_path / "both.json", [memory(number, who) for who in users for number in range(3)])

    def silent_from(text: bytes) -> Callable[[Seen], Fault]:
        silent = False

        def choose(seen: Seen) -> Fault:
            nonlocal silent
            if is_write(seen) and text in seen.body:
                silent = True
                return "cut_after"
            return "cut_before" if silent else "none"

        return choose

    with server_here(tmp_path / "data", context="tests", principals=principals) as server:
        replay(server, tmp_path / "state", [write_raw(tmp_path / "zero.json", [memory(9, user)])], api_key="sk-ann")
        for key, dump, text in (
            ("sk-ann", one, f"{users[0]} remembers thing number 0"),
            ("sk-bob", both, f"{users[1]} remembers thing number 0"),
        ):
            with misbehaving(server.base_url, silent_from(text.encode())) as proxy:
                replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, api_key=key)
        last = replay(server, tmp_path / "state", [both], api_key="sk-ann")
        assert 0 == last.in_doubt
        assert [3, 3] == [len(turns_of(server, who)) for who in users]
