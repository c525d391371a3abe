"""What a run asks of the server until its marker is left, and what may happen meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from spectron_migrate.delivery import marker
from spectron_migrate.delivery.preflight import SCOPES_AHEAD
from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError, Interrupted, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from spectron_migrate.mapping.segments import MARKER
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.reporter import NullReporter
from spectron_migrate.spectron.api import SpectronApi
from tests.support.proxy import Fault, Seen, gated, misbehaving, refusing
from tests.support.replaying import mapping_file, replay_in_no_time
from tests.support.spectron import memory, replay, turns_of, write_raw

pytestmark = pytest.mark.slow

USERS = "abcdef"


def six_users(folder: Path, user: str) -> Path:
    """A file with one memory of each of six users."""
    return write_raw(folder / "all.json", [memory(1, f"{user}{letter}") for letter in USERS])


def registers(seen: Seen) -> bool:
    """Whether a request registers a scope or a marker."""
    return seen.method == "POST" and seen.path.endswith("/scopes")


def is_marker(seen: Seen) -> bool:
    """Whether a request makes the marker of a run."""
    return registers(seen) and MARKER.encode() in seen.body


def registered(seen: Sequence[Seen]) -> list[str]:
    """The scopes that requests registered, markers left out."""
    return [json.loads(each.body)["path"] for each in seen if registers(each) and not is_marker(each)]


def scopes_of(state: Path, column: str) -> set[str]:
    """The scopes below those of users of which the ledger says so."""
    with Ledger.open_for_reading(state) as ledger:
        rows = ledger.db.execute(f"SELECT path FROM scope WHERE {column} = 1 AND path LIKE 'user/%'").fetchall()
    return {row["path"] for row in rows}


def test_without_a_marker_no_session_is_opened_and_nothing_is_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    def tomorrow(seen: Seen) -> Fault:
        return refusing(503, "later", "86400") if is_marker(seen) else "none"

    dump = six_users(tmp_path, user)
    with misbehaving(spectron.base_url, tomorrow) as proxy:
        with pytest.raises(Unreachable, match="did not register"):
            replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)
        seen = list(proxy.seen)
        proxy.choose = lambda seen: "none"
        assert 6 == replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url).written

    assert SCOPES_AHEAD == len(registered(seen))
    assert [] == [each.path for each in seen if each.writes_fact or each.path.endswith("/sessions")]


def test_the_first_scopes_are_registered_while_the_marker_is_being_made(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """The marker is answered only once they have come; each is registered once, and is ours."""
    dump = six_users(tmp_path, user)
    with gated(spectron.base_url) as gate:
        gate.shut = lambda seen: is_marker(seen) and len(registered(gate.seen)) < SCOPES_AHEAD
        assert 6 == replay(spectron, tmp_path / "state", [dump], endpoint=gate.base_url).written

    expected = sorted(f"user/{user}{letter}" for letter in USERS)
    assert expected == sorted(registered(gate.seen))
    assert set(expected) == scopes_of(tmp_path / "state", "created_by_us")


@pytest.mark.parametrize("fault", ["500_before", "500_after", "cut_before", "cut_after", "403"])
def test_a_scope_that_cannot_be_registered_ahead_is_left_to_its_lane(
    spectron: RunningServer, user: str, tmp_path: Path, fault: str
) -> None:
    failed: set[bytes] = set()

    def fail_once(seen: Seen) -> Fault:
        if not registers(seen) or is_marker(seen) or seen.body in failed or len(failed) == SCOPES_AHEAD:
            return "none"
        failed.add(seen.body)
        return refusing(403, "not now") if fault == "403" else fault

    dump = six_users(tmp_path, user)
    with misbehaving(spectron.base_url, fail_once) as proxy:
        done = replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url)

    assert ExitCode.DONE == done.exit_code
    assert 6 == done.written
    assert SCOPES_AHEAD == len(failed)


def test_a_scope_that_takes_longer_than_its_marker_is_awaited_by_its_lane_and_is_ours(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "BESIDE_PATIENCE_S", 0.0)
    dump, slow = six_users(tmp_path, user), f"user/{user}a"
    with gated(spectron.base_url) as gate:

        def shut(seen: Seen) -> bool:
            others_go_on = any(each.path.endswith("/sessions") for each in gate.seen)
            return registers(seen) and slow.encode() in seen.body and not others_go_on

        gate.shut = shut
        assert 6 == replay(spectron, tmp_path / "state", [dump], endpoint=gate.base_url).written

    assert 1 == registered(gate.seen).count(slow)
    assert slow in scopes_of(tmp_path / "state", "created_by_us")


def test_no_more_scopes_are_registered_ahead_than_memories_may_be_sent(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = six_users(tmp_path, user)
    with misbehaving(spectron.base_url) as proxy:
        replay(spectron, tmp_path / "state", [dump], endpoint=proxy.base_url, options=ReplayOptions(limit=1))

    assert 1 == len(registered(proxy.seen))


def test_no_scope_is_registered_before_extraction_in_batches_is_refused(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump, mapping = six_users(tmp_path, user), mapping_file(tmp_path, "write: batch\n")
    with misbehaving(spectron.base_url) as proxy, pytest.raises(InputError, match="may expire after 7 days"):
        replay_in_no_time(spectron, tmp_path / "state", dump, endpoint=proxy.base_url, mapping=mapping)

    assert [] == registered(proxy.seen)


def test_a_signal_lets_scopes_that_are_registered_ahead_finish(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    """So the ledger knows that they are ours; the marker, which belongs to nobody, is not waited for."""
    dump, state = six_users(tmp_path, user), tmp_path / "state"
    interrupted = threading.Event()

    async def run(endpoint: str) -> None:
        loop = asyncio.get_running_loop()
        async with SpectronApi(endpoint, spectron.context, api_key=spectron.api_key) as api:
            with open_any([dump]) as opened:
                step = Replay(state, opened, load_mapping(None), ReplayOptions(), reporter=NullReporter())

                def interrupt() -> None:
                    step.interrupt(ExitCode.SIGTERM)
                    interrupted.set()

                def shut(seen: Seen) -> bool:
                    if len(registered(gate.seen)) == SCOPES_AHEAD and not interrupted.is_set():
                        loop.call_soon_threadsafe(interrupt)
                    return registers(seen) and not interrupted.is_set()

                gate.shut = shut
                await step.run(api)

    with gated(spectron.base_url) as gate, pytest.raises(Interrupted):
        asyncio.run(run(gate.base_url))

    assert SCOPES_AHEAD == len(scopes_of(state, "created_by_us"))
    assert [] == turns_of(spectron, f"{user}a")
