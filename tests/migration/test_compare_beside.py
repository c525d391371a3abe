"""All of Mem0 compared with the ledger beside the rounds: what was missed is found, what goes on is no difference."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import Incomplete, Interrupted, Unreachable
from spectron_migrate.mem0.reader import Reader
from spectron_migrate.mem0.stores.qdrant_changes import QdrantChanges
from spectron_migrate.migration.compare_beside import BesideComparison, ComparedBeside
from spectron_migrate.migration.reconcile import read_last_result, reconcile_beside
from spectron_migrate.migration.replay import Replay
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.replay_summary import ReplaySummary
from spectron_migrate.migration.round_result import Round
from spectron_migrate.migration.rounds import Rounds, comparison_beside
from spectron_migrate.records import Memory, Skipped, format_time
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.following import COMPARES_BESIDE, FOLLOW_FILE, FOLLOW_LOCK
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.store import read_object, store_at
from tests.mem0.qdrant_points import uuid
from tests.support.here import server_here
from tests.support.scene import PgStore, Scene, Store

pytestmark = pytest.mark.slow


def read(scene: Scene) -> BesideComparison:
    """A reading that has ended."""
    comparison = comparison_beside(scene.settings, now=scene.time.now)
    comparison.read()
    return comparison


def conclude(comparison: BesideComparison, done: Round) -> ComparedBeside:
    assert done.as_of > comparison.ended
    shown = comparison.conclude()
    assert shown is not None
    return shown


@pytest.fixture
def delivered(scene: Scene) -> Scene:
    """Five memories that are in Mem0 and in Spectron."""
    for number in range(5):
        scene.put(number, f"thing {number}", ago=4000 - number)
    scene.round()
    return scene


def test_what_is_in_the_ledger_as_mem0_has_it_is_no_difference(delivered: Scene) -> None:
    shown = conclude(read(delivered), delivered.round())
    assert 5 == shown.compared.memories
    assert 0 == shown.compared.total
    assert not shown.quiet


@pytest.mark.parametrize(
    ("missed", "missing", "extra"),
    [
        (lambda scene: scene.put(7, "a new one", ago=3000), 1, 0),
        (lambda scene: scene.put(3, "another text", ago=3000), 1, 0),
        (lambda scene: scene.store.drop(3), 0, 1),
    ],
)
def test_what_the_rounds_missed_is_a_difference(
    delivered: Scene, missed: Callable[[Scene], object], missing: int, extra: int
) -> None:
    missed(delivered)
    comparison = read(delivered)
    shown = comparison.conclude()  # as if a round had found nothing
    assert shown is not None
    assert missing == shown.compared.missing
    assert extra == shown.compared.extra
    assert missing == len(shown.compared.named)
    assert set(shown.compared.named) <= {uuid(3), uuid(7)}


def test_what_a_round_after_the_reading_brought_is_no_difference(delivered: Scene) -> None:
    delivered.put(7, "a new one", ago=3000)
    delivered.put(3, "another text", ago=3000)
    delivered.store.drop(1)
    comparison = read(delivered)
    delivered.put(4, "a text that came after the reading", ago=2000)
    delivered.store.drop(2)
    shown = conclude(comparison, delivered.round())
    assert 0 == shown.compared.total
    assert 0 == shown.compared.waiting


def test_a_text_that_is_too_young_to_be_sent_waits(delivered: Scene) -> None:
    delivered.put(3, "a young text", ago=5)
    shown = conclude(read(delivered), delivered.round())
    assert 1 == shown.compared.waiting
    assert 0 == shown.compared.total


def test_what_was_missed_does_not_wait_for_a_younger_memory_of_its_owner(delivered: Scene) -> None:
    delivered.put(7, "a new one", ago=3000)
    comparison = read(delivered)
    shown = comparison.conclude()  # a round that found nothing, and left the owner behind
    assert shown is not None
    assert 1 == shown.compared.missing
    assert 0 == shown.compared.waiting


def test_what_a_round_brings_while_the_store_is_copied_is_no_difference(delivered: Scene) -> None:
    def open_copy(now: datetime) -> Any:
        with delivered.store.open(now) as reader:
            copied = list(reader.rows())
        delivered.put(3, "another text", ago=3000)
        delivered.open_reader = None
        delivered.round()
        watched = Watched(delivered.store.open(now), lambda number: None)
        watched.rows_beside = lambda: iter(copied)  # type: ignore[method-assign]
        return watched

    delivered.open_reader = open_copy
    assert 0 == conclude(read(delivered), delivered.round()).compared.total


def test_a_missed_edit_is_found_although_everything_is_planned_anew_meanwhile(delivered: Scene) -> None:
    class Blind(Watched):
        """To which every memory has other metadata than before, and the edited one its old text."""

        def rows(self) -> Iterator[Memory | Skipped]:
            for row in self._inner.rows():
                assert isinstance(row, Memory)
                text = "thing 3" if row.id == uuid(3) else row.memory
                yield replace(row, memory=text, metadata={"touched": True})

    delivered.put(3, "another text", ago=3000)
    comparison = read(delivered)
    delivered.open_reader = lambda now: Blind(delivered.store.open(now), lambda number: None)
    shown = conclude(comparison, delivered.round())
    assert (uuid(3),) == shown.compared.named
    assert 1 == shown.compared.total


def test_a_missed_deletion_is_found_although_a_later_scan_touched_the_memory(delivered: Scene) -> None:
    class Blind(Watched):
        """To which every memory has other metadata than before, and the deleted one is still there."""

        def rows(self) -> Iterator[Memory | Skipped]:
            for row in [*self._inner.rows(), gone]:
                assert isinstance(row, Memory)
                yield replace(row, metadata={"touched": True})

        def missing(self) -> int | None:
            return 0

    with delivered.store.open(delivered.time.now()) as reader:
        gone = next(row for row in reader.rows() if row.id == uuid(3))
    delivered.store.drop(3)
    comparison = read(delivered)
    delivered.open_reader = lambda now: Blind(delivered.store.open(now), lambda number: None)
    shown = conclude(comparison, delivered.round())
    assert 1 == shown.compared.extra
    assert 1 == shown.compared.total


def test_a_memory_that_returned_or_went_during_the_reading_is_no_difference(delivered: Scene) -> None:
    row = delivered.store.rows[uuid(3)]
    delivered.store.drop(3)
    delivered.round()
    delivered.store.rows[uuid(3)] = row
    delivered.store._write(uuid(3))
    comparison = read(delivered)
    delivered.store.drop(4)
    shown = conclude(comparison, delivered.round())
    assert 0 == shown.compared.total


def test_a_text_that_a_person_called_older_is_no_difference_however_often_mem0_changes(delivered: Scene) -> None:
    call_older(delivered, 3)
    for number in range(7, 10):
        delivered.put(number, f"thing {number}", ago=3000)
        done = delivered.round(compare=True)
        assert done.compared is not None
        assert 0 == done.compared.total
        assert 0 == conclude(read(delivered), delivered.round()).compared.total
    assert "thing 3" in delivered.texts
    assert "an older text" not in delivered.texts


def test_a_text_that_a_person_called_older_is_asked_about_again_once_mem0_dates_it_anew(delivered: Scene) -> None:
    call_older(delivered, 3)
    delivered.put(3, "an older text", ago=10_000)
    assert 1 == conclude(read(delivered), delivered.round()).compared.missing


def call_older(scene: Scene, number: int) -> None:
    """Another dump shows the memory with another text of the same time, and a person calls that one older."""
    shutil.rmtree(scene.settings.dump)
    scene.store.rows[uuid(number)]["data"] = "an older text"
    scene.store._write(uuid(number))
    assert 1 == scene.round(compare=True).compared.missing  # type: ignore[union-attr]

    async def decide() -> ReplaySummary:
        options = ReplayOptions(choices={uuid(number): "older"})
        with open_dump(scene.settings.dump) as dump:
            async with scene.api() as api:
                replay = Replay(scene.state, dump, scene.settings.mapping, options, reporter=scene.reporter)
                return await replay.run(api)

    assert 0 == asyncio.run(decide()).pending


def test_a_missed_text_with_a_time_in_the_future_does_not_wait_for_ever(delivered: Scene) -> None:
    delivered.put(3, "a text of next year", ago=-30_000_000)
    first = read(delivered)
    shown = first.conclude()
    assert shown is not None
    assert 1 == shown.compared.waiting
    delivered.time.pass_(100)
    second = comparison_beside(delivered.settings, first, now=delivered.time.now)
    second.read()
    shown = second.conclude()
    assert shown is not None
    assert (uuid(3),) == shown.compared.named


def test_a_memory_that_is_deleted_before_it_had_settled_is_no_difference(delivered: Scene) -> None:
    delivered.put(7, "a new one", ago=5)
    comparison = read(delivered)
    delivered.store.drop(7)
    delivered.time.pass_(100)
    assert 0 == conclude(comparison, delivered.round()).compared.total


def test_two_edits_before_the_first_one_had_settled_are_no_difference(delivered: Scene) -> None:
    delivered.put(3, "a second text", ago=5)
    comparison = read(delivered)
    delivered.time.pass_(40)
    delivered.put(3, "a third text", ago=5)
    delivered.time.pass_(30)
    shown = conclude(comparison, delivered.round())
    assert 0 == shown.compared.total


def test_it_proves_nothing_if_very_much_changed_meanwhile(delivered: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectron_migrate.migration.compare_beside.MOST_CHANGED", 2)
    comparison = read(delivered)
    for number in range(10, 14):
        delivered.put(number, f"thing {number}", ago=3000)
    delivered.round()
    assert comparison.conclude() is None


def test_a_reading_that_is_not_complete_raises(delivered: Scene) -> None:
    delivered.open_reader = lambda now: Watched(delivered.store.open(now), lambda number: None, gives=3)
    with pytest.raises(Incomplete, match=r"could not be read in full \(3 memories of 5\)"):
        read(delivered)


def test_a_reading_that_is_cut_off_raises(delivered: Scene) -> None:
    def cut_off(number: int) -> None:
        if number == 3:
            raise Unreachable("gone")

    def open_reader(now: datetime) -> Any:
        reader = Watched(delivered.store.open(now), cut_off)
        reader.rows_beside = lambda: None  # type: ignore[method-assign]
        return reader

    delivered.open_reader = open_reader
    with pytest.raises(Incomplete, match=r"could not be read in full \(3 memories, then: gone\)"):
        read(delivered)


def test_a_reading_ends_soon_after_it_is_stopped(delivered: Scene) -> None:
    comparison = comparison_beside(delivered.settings, now=delivered.time.now)
    comparison.stop()
    with pytest.raises(Interrupted):
        comparison.read()


class Watched:
    """A reader that calls `at_row` with the number of each row before it gives it, and at most so many."""

    def __init__(self, inner: Reader, at_row: Callable[[int], None], gives: int | None = None) -> None:
        self._inner, self._at_row, self._gives = inner, at_row, gives

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def rows(self) -> Iterator[Memory | Skipped]:
        return self._watched(self._inner.rows())

    def rows_beside(self) -> Iterator[Memory | Skipped] | None:
        rows = self._inner.rows_beside() if self._gives is None else None
        return None if rows is None else self._watched(rows)

    def _watched(self, rows: Iterator[Memory | Skipped]) -> Iterator[Memory | Skipped]:
        for number, row in enumerate(rows):
            if number == self._gives:
                return
            self._at_row(number)
            yield row

    def missing(self) -> int | None:
        return self._inner.missing() if self._gives is None else 1

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_changes_during_a_reading_only_what_was_missed_is_a_difference(tmp_path: Path, seed: int) -> None:
    play(tmp_path, Store(tmp_path / "mem0"), random.Random(seed))


@pytest.mark.parametrize("seed", range(6, 9))
def test_of_a_table_of_postgres_as_well(tmp_path: Path, postgres: str, seed: int) -> None:
    play(tmp_path, PgStore(tmp_path / "mem0", address=postgres), random.Random(seed))


def play(tmp_path: Path, store: Store, dice: random.Random) -> None:
    """Applications write and rounds run between the rows of a reading; afterwards one change is hidden from them."""
    with server_here(tmp_path / "data", context="tests") as server:
        scene = Scene(store, server, tmp_path, "user")
        living = set(range(40))
        for number in living:
            scene.put(number, f"thing {number}", ago=9000 - number)
        rounds = scene.rounds()
        scene.round(rounds)

        def act(_: int = 0) -> None:
            scene.time.pass_(dice.choice((0, 1, 10)))
            if dice.random() < 0.3:
                number = dice.choice(sorted({*living, *range(40, 60)}))
                if number in living and dice.random() < 0.4:
                    living.remove(number)
                    scene.store.drop(number)
                else:
                    living.add(number)
                    ago = dice.choice((0, 5, 100))
                    scene.put(number, f"thing {number} at {scene.time.moment}", ago=ago)
            if dice.random() < 0.1:
                scene.round(rounds)

        hides = dice.random() < 0.4
        if hides:
            scene.put(99, "a memory that no round finds", ago=8000)
            rounds = rounds_without(scene, 99)
        comparison = BesideComparison(
            scene.state,
            lambda now: Watched(store.open(now), act),
            settle_s=60.0,
            reporter=scene.reporter,
            now=scene.time.now,
        )
        comparison.read()
        for _ in range(dice.randrange(5)):
            act()
        scene.time.pass_(100)
        done = scene.round(rounds)
        shown = conclude(comparison, done)
    assert frozenset() == done.behind
    assert hides == shown.compared.total
    assert ((uuid(99),) if hides else ()) == shown.compared.named


def rounds_without(scene: Scene, number: int) -> Rounds:
    """Rounds to which a memory is invisible."""

    class Blind(Watched):
        def rows(self) -> Iterator[Memory | Skipped]:
            return (row for row in self._inner.rows() if row.id != uuid(number))

    scene.open_reader = lambda now: Blind(scene.store.open(now), lambda number: None)
    return scene.rounds()


def test_what_changes_while_all_of_mem0_is_read_arrives_before_that_has_ended(scene: Scene) -> None:
    """The second comparison of a follower is held; rounds go on."""
    scene.put(1, "one")
    held, opened = threading.Event(), 0

    def open_reader(now: datetime) -> Any:
        nonlocal opened
        opened += 1
        scene.time.pass_(10)  # a reading takes long enough to be made beside the rounds
        wait = opened == 2
        return Watched(scene.store.open(now), lambda number: held.wait(20) if wait else None)  # type: ignore[arg-type,func-returns-value]

    scene.open_reader = open_reader
    arrived: list[bool] = []

    async def sleep(seconds: float) -> None:
        scene.time.pass_(seconds)
        await asyncio.sleep(0)
        if opened == 2 and not held.is_set():
            if uuid(2) not in scene.store.rows:
                scene.put(2, "two", ago=1000)
            elif "two" in scene.texts:
                arrived.append(held.is_set())
                held.set()

    scene.follow(max_seconds=600, sleep=sleep)
    assert [False] == arrived
    found = read_last_result(scene.state)
    assert found is not None
    assert found.agree
    assert 2 == found.memories
    assert compares_beside_said(scene)


def test_a_difference_is_mended_by_a_round_that_reads_everything(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the changes misses one; the comparison beside the rounds finds it."""
    scene.put(1, "one")
    missed = uuid(2)
    changed = QdrantChanges.changed

    def blind(self: QdrantChanges, *, now: datetime) -> Any:
        found = changed(self, now=now)
        if found is None:
            return None
        return replace(found, memories=[memory for memory in found.memories if memory.id != missed])

    monkeypatch.setattr(QdrantChanges, "changed", blind)

    def open_slowly(now: datetime) -> Reader:
        scene.time.pass_(10)
        return scene.store.open(now)

    scene.open_reader = open_slowly

    async def sleep(seconds: float) -> None:
        scene.time.pass_(seconds)
        await asyncio.sleep(0)
        if scene.store.readings == 1:
            scene.put(2, "two", ago=1000)

    done = scene.follow(max_seconds=300, sleep=sleep)
    assert "two" in scene.texts
    assert 0 == done.remaining
    assert any("1 change of Mem0 did not show" in warning for warning in scene.reporter.warnings)


def test_a_comparison_beside_the_rounds_that_fails_slows_no_round_down(scene: Scene) -> None:
    scene.put(1, "one")
    opened: list[float] = []

    def fails_beside(now: datetime) -> Reader:
        opened.append(scene.time.clock())
        if len(opened) > 1:
            raise Unreachable("Mem0 cannot be reached")
        scene.time.pass_(10)
        return scene.store.open(now)

    scene.open_reader = fails_beside
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        scene.time.pass_(seconds)
        await asyncio.sleep(0.001)
        if len(pauses) == 40:
            scene.put(2, "two", ago=1000)

    done = scene.follow(max_seconds=600, sleep=sleep)
    assert 2 == done.written
    assert max(pauses[1:]) <= 5
    assert min(after - before for before, after in itertools.pairwise(opened[1:])) >= 60
    said = [line for line in scene.reporter.lines if "cannot be reached" in line]
    assert 1 == len(said)
    assert "could not be compared with the ledger" in said[0]
    assert "rounds go on" in said[0]
    problem = (read_object(scene.state, FOLLOW_FILE) or {})["problem"]
    assert "all of Mem0 could not be compared with the ledger: Mem0 cannot be reached" == problem


def test_what_a_person_has_to_decide_is_no_reason_to_read_all_of_mem0_in_each_round(delivered: Scene) -> None:
    shutil.rmtree(delivered.settings.dump)
    delivered.store.rows[uuid(3)]["data"] = "nobody knows whether this is older"
    delivered.store._write(uuid(3))
    opened = 0

    def open_slowly(now: datetime) -> Reader:
        nonlocal opened
        opened += 1
        delivered.time.pass_(10)
        return delivered.store.open(now)

    delivered.open_reader = open_slowly
    done = delivered.follow(max_seconds=1500)
    assert done.rounds > 100
    assert opened <= 6
    found = read_last_result(delivered.state)
    assert found is not None
    assert (uuid(3),) == found.named


def test_what_is_soon_read_is_compared_in_a_round(scene: Scene) -> None:
    scene.put(1, "one")
    scene.follow(max_seconds=12)
    found = read_last_result(scene.state)
    assert found is not None
    assert found.agree
    assert not compares_beside_said(scene)


def compares_beside_said(scene: Scene) -> bool:
    return bool((read_object(scene.state, FOLLOW_FILE) or {})[COMPARES_BESIDE])


def test_a_step_of_a_cutover_compares_beside_the_rounds_of_the_follower(delivered: Scene) -> None:
    rounds = delivered.rounds()
    delivered.round(rounds)

    async def run() -> Any:
        async with delivered.api() as api:

            async def sleep(seconds: float) -> None:
                delivered.time.pass_(seconds)
                await rounds.round(api)

            return await reconcile_beside(
                delivered.settings, reporter=delivered.reporter, now=delivered.time.now, sleep=sleep
            )

    record_start(delivered)
    lock = store_at(delivered.state).try_lock(FOLLOW_LOCK)
    assert lock is not None
    with lock:
        result = asyncio.run(run())
    assert result.agree
    assert 5 == result.memories
    assert result == read_last_result(delivered.state)


def test_without_a_round_of_the_follower_nothing_is_agreed_beside_it(delivered: Scene) -> None:
    record_start(delivered)
    given: dict[str, Any] = {"now": delivered.time.now, "sleep": delivered.time.sleep}
    assert asyncio.run(reconcile_beside(delivered.settings, reporter=delivered.reporter, **given)) is None
    assert read_last_result(delivered.state) is None


def record_start(scene: Scene) -> None:
    at = scene.time.moment - timedelta(seconds=1)
    record_step(scene.state, Step("start", format_time(at), "anna"))
