"""Which listings of turns are evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import forged, is_write, replay_in_no_time, texts
from tests.support.spectron import memory, replay, write_raw


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
