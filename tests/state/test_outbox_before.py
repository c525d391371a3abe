"""An outbox begun with version 0.1 goes on: the files in tests/data/outbox-before were written by it."""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.state.call_log import ANYBODY, CallSubject
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.outbox_before import is_in_use

DATA = Path(__file__).parents[1] / "data" / "outbox-before" / "state.tar.gz"
NOW = datetime(2026, 1, 15, 13, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with tarfile.open(DATA) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_what_waited_is_drained_exactly_once(state: Path) -> None:
    outbox = Outbox(state, host="web-1")
    batch = outbox.batch(10, NOW)
    assert ["Waits since the version before", "Waits too", "Waits, and was changed"] == [
        result.text for result in batch.results
    ]
    outbox.delivered(batch)
    assert () == outbox.batch(10, NOW).results
    assert () == Outbox(state, host="web-1").batch(10, NOW).results


def test_what_was_unknown_stays_unknown_and_what_ran_becomes_it(state: Path) -> None:
    outbox = Outbox(state, host="web-1")
    batch = outbox.batch(10, NOW)
    assert () == batch.running
    outbox.delivered(batch)
    bob, dave, erin = CallSubject(("before-bob",)), CallSubject(("before-dave",)), CallSubject((), "m-of-erin")
    unknown = outbox.unknown()
    assert bob == unknown[0]
    assert {dave, erin, ANYBODY} == set(unknown[1:])
    assert 4 == len(unknown)
    outbox.settle("2026-01-15T14:00:00.000000Z")
    assert [] == outbox.unknown()


def test_reads_wait_until_the_drainer_has_taken_its_files_over(state: Path) -> None:
    reader = ProcessCalls(state, lambda: None)
    assert reader.must_wait("somebody", NOW.timestamp())
    outbox = Outbox(state, host="web-1")
    outbox.delivered(outbox.batch(10, NOW))
    assert not is_in_use(state)
    assert [] == list((state / "running").iterdir())
    assert not ProcessCalls(state, lambda: None).must_wait("somebody", NOW.timestamp())


def test_a_process_of_it_that_still_runs_keeps_its_files(state: Path) -> None:
    from spectron_migrate.files.locks import try_lock

    running, written = next((state / "running").iterdir()), state / "processes" / "written.0.map"
    outbox = Outbox(state, host="web-1")
    data = running.read_bytes()
    with try_lock(running) or pytest.fail("locked"), try_lock(written) or pytest.fail("locked"):
        running.write_bytes(data)  # a lock of ours names its holder in the file
        batch = outbox.batch(10, NOW)
        outbox.delivered(batch)
    assert {CallSubject(("before-dave",)), CallSubject((), "m-of-erin")} == set(batch.running)
    assert running.exists()
    assert is_in_use(state)
