"""The outbox as its drainer sees it: each result once and in order, whoever dies on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spectron_migrate.state import call_log
from spectron_migrate.state.call_log import (
    ANYBODY,
    FILE,
    CallLines,
    CallLog,
    CallResult,
    CallSubject,
    begin_line,
    encode_results,
    end_line,
    unknown_line,
)
from spectron_migrate.state.outbox import OtherHost, Outbox, OutboxBatch, claim_host
from spectron_migrate.state.store import StateStore

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ALICE = CallSubject(("alice",))


def complete(log: CallLines, *mem0_ids: str, at: datetime = NOW, text: str = "said") -> None:
    """A call returned, and left these memories."""
    log.append(end_line("41:a/1", at.timestamp(), encode_results([CallResult("ADD", each, text) for each in mem0_ids])))


def ids(batch: OutboxBatch) -> list[str]:
    return [result.mem0_id for result in batch.results]


IN_FILES = pytest.mark.parametrize("engine", ["directory"], indirect=True)


@pytest.fixture
def outboxes(another: Callable[[], StateStore]) -> Iterator[Callable[[], Outbox]]:
    """Opens the outbox as the next follower does."""
    opened: list[Outbox] = []

    def open_outbox() -> Outbox:
        opened.append(Outbox(another(), host="web-1"))
        return opened[-1]

    yield open_outbox
    for each in opened:
        each.close()


@pytest.fixture
def outbox(outboxes: Callable[[], Outbox]) -> Outbox:
    return outboxes()


@pytest.fixture
def log(another: Callable[[], StateStore], outbox: Outbox) -> Iterator[CallLines]:
    """Where an application process appends."""
    log = another().call_log(patience_s=20)
    yield log
    log.close()


def test_results_wait_in_the_order_of_completion(outbox: Outbox, log: CallLines) -> None:
    complete(log, "m2", "m3")
    complete(log, "m1", at=NOW - timedelta(hours=1))  # the clock went back
    batch = outbox.batch(10, NOW)
    assert ["m2", "m3", "m1"] == ids(batch)
    stamps = [result.completed for result in batch.results]
    assert sorted(set(stamps)) == stamps
    complete(log, "m4")
    outbox.delivered(batch)  # what was appended meanwhile stays
    later = outbox.batch(10, NOW)
    assert ["m4"] == ids(later)
    assert stamps[-1] < later.results[0].completed


def test_a_mark_is_later_than_the_one_before_whatever_the_clock_says(outbox: Outbox) -> None:
    first = outbox.batch(10, NOW)
    outbox.delivered(first)
    second = outbox.batch(10, NOW - timedelta(hours=1))
    assert first.as_of < second.as_of


def test_a_batch_that_does_not_reach_its_mark_is_not_whole(outbox: Outbox, log: CallLines) -> None:
    for mem0_id in ("m1", "m2", "m3"):
        complete(log, mem0_id)
    batch = outbox.batch(2, NOW)
    assert ["m1", "m2"] == ids(batch)
    assert not batch.is_whole
    outbox.delivered(batch)
    rest = outbox.batch(2, NOW)
    assert ["m3"] == ids(rest)


def test_what_was_planned_and_not_acknowledged_comes_again(
    outbox: Outbox, log: CallLines, outboxes: Callable[[], Outbox]
) -> None:
    complete(log, "m1")
    assert ["m1"] == ids(outbox.batch(10, NOW))
    assert ["m1"] == ids(outbox.batch(10, NOW))
    assert ["m1"] == ids(outboxes().batch(10, NOW))


@IN_FILES
def test_what_was_drained_takes_no_room_and_nothing_is_skipped(
    tmp_path: Path, outbox: Outbox, log: CallLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "LARGE", 20_000)
    said = [f"m{number}" for number in range(50)]
    seen = []
    for mem0_id in said:
        complete(log, mem0_id, text="x" * 5000)
        if mem0_id != "m40":  # falls behind by one
            batch = outbox.batch(1, NOW)
            seen += ids(batch)
            outbox.delivered(batch)
    assert outbox.waits()
    seen += ids(Outbox(tmp_path, host="web-1").batch(9, NOW))
    assert said == seen
    status = (tmp_path / FILE).stat()
    assert status.st_blocks * 512 < 50_000
    assert 250_000 < status.st_size


def test_a_running_call_is_known_until_it_ends_and_the_log_is_kept_from_its_beginning(
    outboxes: Callable[[], Outbox], outbox: Outbox, log: CallLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "LARGE", 1)
    monkeypatch.setattr("spectron_migrate.state.postgres_calls.KEPT_S", 0.0)
    monkeypatch.setattr("spectron_migrate.state.outbox.is_process_alive", lambda *_: True)
    log.append(begin_line("41:a/7", 1, NOW.timestamp(), ALICE))
    for _ in range(5):
        complete(log, "m1", text="x" * 5000)
        outbox.delivered(outbox.batch(10, NOW))
    other = outboxes()
    assert (ALICE,) == other.batch(10, NOW).running
    log.append(end_line("41:a/7", NOW.timestamp(), encode_results([CallResult("ADD", "m7", "said")])))
    batch = other.batch(10, NOW)
    assert ["m7"] == ids(batch)
    assert () == batch.running


def test_a_running_call_of_a_dead_process_is_unknown(outbox: Outbox, log: CallLines) -> None:
    log.append(begin_line("41:a/7", 1, NOW.timestamp(), ALICE))
    first = outbox.batch(10, NOW)
    assert (ALICE,) == first.running
    outbox.delivered(first)
    batch = outbox.batch(10, NOW)
    assert [ALICE] == [subject for _, subject in batch.unknown]
    assert () == batch.running


def test_unknown_calls_are_kept_until_a_later_reading(outbox: Outbox, log: CallLines) -> None:
    log.append(unknown_line("41:a/1", NOW.timestamp(), ALICE))
    outbox.delivered(outbox.batch(10, NOW), CallSubject(("bob",)))
    assert [ALICE, CallSubject(("bob",))] == outbox.unknown()
    outbox.settle("2026-11-22T12:00:00.000000Z")
    assert [ALICE, CallSubject(("bob",))] == outbox.unknown()
    outbox.settle("2026-11-22T12:00:01.000000Z")
    assert [] == outbox.unknown()


@IN_FILES
def test_a_log_that_is_begun_anew_hides_nothing(tmp_path: Path, outbox: Outbox, log: CallLines) -> None:
    complete(log, "m1")
    outbox.delivered(outbox.batch(9, NOW))
    outbox.close()
    (tmp_path / FILE).unlink()
    complete(CallLog(tmp_path), "m2", "m3")
    assert ["m2", "m3"] == ids(Outbox(tmp_path, host="web-1").batch(9, NOW))


@IN_FILES
@pytest.mark.parametrize(
    "torn", [b"\nend 41:a/1 176", b'\nunknown 41:a/1 1764.5 [["al', bytes(20), b"\nsomething else"], ids=str
)
def test_a_torn_line_takes_no_other_with_it_and_could_be_about_anybody(
    tmp_path: Path, outbox: Outbox, log: CallLines, torn: bytes
) -> None:
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    complete(log, "m1")
    batch = outbox.batch(9, NOW)
    assert ["m1"] == ids(batch)
    assert [ANYBODY] == [subject for _, subject in batch.unknown]


@IN_FILES
@pytest.mark.usefixtures("engine")
def test_another_host_is_refused(tmp_path: Path) -> None:
    claim_host(tmp_path, "web-1")
    with pytest.raises(OtherHost, match="belongs to host web-1, this is web-2"):
        Outbox(tmp_path, host="web-2")


APPENDING = """
import sys, time
from spectron_migrate.state.call_log import CallResult, encode_results, end_line
from tests.state.support import open_store
log = open_store(sys.argv[1]).call_log(patience_s=20)
for number in range(int(sys.argv[3])):
    results = encode_results([CallResult("ADD", f"{sys.argv[2]} {number}", "x" * 500)])
    log.append(end_line(f"{sys.argv[2]}/{number}", time.time(), results))
    print(number, flush=True)
"""
DRAINING = """
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from spectron_migrate.state import call_log, postgres_calls
from spectron_migrate.state.outbox import Outbox
from tests.state.support import open_store
call_log.LARGE, postgres_calls.KEPT_S = 20_000, 0.0
outbox = Outbox(open_store(sys.argv[1]), host="web-1")
while True:
    batch = outbox.batch(7, datetime.now(UTC))
    for result in batch.results:
        print(result.completed, result.mem0_id, flush=True)
    outbox.delivered(batch)
"""


def started(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_after(process: subprocess.Popen[str], lines: int) -> list[str]:
    """What it said until it was killed, in the middle of whatever it was doing."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line.rstrip("\n") for line in said if line.endswith("\n")]


@pytest.mark.slow
def test_what_is_appended_is_drained_in_order_whoever_is_killed_meanwhile(
    place: str, outboxes: Callable[[], Outbox]
) -> None:
    """Processes append until they are killed, and whoever drains, and gives room back, is killed too."""
    outbox = outboxes()
    survivor = started(APPENDING, place, "survivor", 600)
    acknowledged, seen = {}, []
    for name in ("a", "b", "c"):
        victim = started(APPENDING, place, name, 100_000)
        seen += killed_after(started(DRAINING, place), 45)
        acknowledged[name] = len(killed_after(victim, 100))
    survivor.wait(60)
    acknowledged["survivor"] = len(killed_after(survivor, 600))
    whole = False
    while not whole:
        batch = outbox.batch(500, datetime.now(UTC))
        seen += [f"{result.completed} {result.mem0_id}" for result in batch.results]
        outbox.delivered(batch)
        whole = batch.is_whole
    once = list(dict.fromkeys(seen))  # what was drained by one who died before saying so is drained again
    assert sorted(once) == once
    for name, least in acknowledged.items():
        mine = [line.split(" ", 1)[1] for line in once if f" {name} " in line]
        assert [f"{name} {number}" for number in range(len(mine))] == mine
        assert least <= len(mine) <= least + 1  # the last one was killed before it could say so
