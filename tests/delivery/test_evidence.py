"""Which listings of turns are evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import expected_texts, forged, is_write, mapping_file, replay_in_no_time, texts
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "body", [b"<html>welcome to the hotel</html>", b'"busy"', b"null", b'{"turns":[{"content":1}]}']
)
def test_a_malformed_listing_leaves_the_fact_in_doubt(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(3)])
    forged(monkeypatch, lambda seen, _: body if "/turns" in seen.path else None)

    def cut_second(seen: Seen) -> Fault:
        return "cut_before" if is_write(seen) and b"number 1" in seen.body else "none"

    with misbehaving(spectron.base_url, cut_second) as proxy:
        summary = replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    assert ExitCode.UNREACHABLE == summary.exit_code
    assert 1 == summary.written
    assert 1 == summary.in_doubt
    assert 1 == summary.remaining


def test_a_200_that_is_not_a_listing_is_no_evidence_of_absence(
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
    assert 1 == writes
    assert 1 == summary.in_doubt


def test_a_turn_resolved_as_present_is_not_taken_for_the_next_memory(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(2)])

    def no_listing(seen: Seen) -> Fault:
        if seen.writes_fact:
            return "cut_after"
        return refusing(404, "no such session") if "/turns" in seen.path else "none"

    with misbehaving(spectron.base_url, no_listing) as proxy:
        first = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
    assert 1 == first.undecidable
    tries = 0

    def never_taken(seen: Seen) -> Fault:
        nonlocal tries
        tries += seen.writes_fact
        return "none" if not seen.writes_fact else "cut_before" if tries == 1 else "500_before"

    present = ReplayOptions(resolve={f"{user}-0000": "present"})
    with misbehaving(spectron.base_url, never_taken) as proxy:
        replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, options=present)
    last = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert [f"{user} remembers thing number {number}" for number in range(2)] == texts(spectron, user), last


LAG_S = 0.5


class LaggingListing:
    """Listings of turns that leave out what was written less than `LAG_S` seconds ago."""

    def __init__(self) -> None:
        self.moment = 0.0
        self.first_seen: dict[str, float] = {}

    def change(self, seen: Seen, body: bytes) -> bytes | None:
        if seen.method != "GET" or "/turns" not in seen.path:
            return None
        listing = json.loads(body)
        shown = [
            turn
            for turn in listing["turns"]
            if self.moment - self.first_seen.setdefault(turn["id"], self.moment) >= LAG_S
        ]
        return json.dumps({**listing, "turns": shown}).encode()


@pytest.mark.parametrize("settings", ["infer: full\n", "infer: none\n", "infer: none\nwrite: batch\n"])
@pytest.mark.parametrize("names_turn", [True, False])
@pytest.mark.parametrize("fault", ["cut_after", "500_after", "cut_before"])
def test_a_listing_that_lags_makes_nothing_undecidable(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, *, names_turn: bool, fault: str
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(12)])
    lagging = LaggingListing()
    forged(monkeypatch, lagging.change)
    writes = 0

    def every_third(seen: Seen) -> Fault:
        nonlocal writes
        writes += seen.writes_fact
        return fault if seen.writes_fact and writes % 3 == 2 else "none"

    with server_here(tmp_path / "data", context="tests", reading={"names_turn": names_turn}) as server:
        with misbehaving(server.base_url, every_third) as proxy:
            summaries = [
                replay_in_no_time(
                    server,
                    tmp_path / "state",
                    dump,
                    endpoint=proxy.base_url,
                    mapping=mapping_file(tmp_path, settings),
                    waited=lambda moment: setattr(lagging, "moment", lagging.moment + 0.25),
                )
                for _ in range(2)
            ]
        stored = texts(server, user)
    assert ExitCode.DONE == summaries[-1].exit_code
    assert 0 == summaries[-1].undecidable
    assert set(expected_texts(user, 12)) == set(stored)


def test_turns_without_a_number_are_in_the_order_of_the_listing(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(6)])

    def without_numbers(seen: Seen, body: bytes) -> bytes | None:
        if seen.method != "GET" or "/turns" not in seen.path:
            return None
        listing = json.loads(body)
        return json.dumps({**listing, "turns": [{**turn, "seq": None} for turn in listing["turns"]]}).encode()

    forged(monkeypatch, without_numbers)
    with misbehaving(
        spectron.base_url, lambda seen: "cut_after" if is_write(seen) and b"number 3" in seen.body else "none"
    ) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url)
    summary = replay(spectron, tmp_path / "state", [dump])
    assert ExitCode.DONE == summary.exit_code
    assert expected_texts(user, 6) == texts(spectron, user)
