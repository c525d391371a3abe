"""A round of catching up: what changed in Mem0 arrives once, in order, and whoever is behind is known."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import changes_writer, open_dump, read_manifest
from spectron_migrate.dump.manifest import read_base_manifest
from spectron_migrate.errors import ExitCode, Incomplete, KeyRefused, LedgerLocked
from spectron_migrate.ledger import Ledger
from spectron_migrate.mem0.reader import Changed, Reader
from spectron_migrate.mem0.stores.qdrant_changes import QdrantChanges
from spectron_migrate.migration.reading import Reading
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.migration.rounds import Rounds
from spectron_migrate.records import Filters, format_time
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import record_step
from tests.mem0.qdrant_points import uuid
from tests.support.ledgers import OF_MEMORY, facts_of
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.scene import NOON, Scene
from tests.support.spectron import replay

pytestmark = pytest.mark.slow


def test_what_is_new_changed_or_deleted_arrives_and_nothing_else_is_sent(scene: Scene) -> None:
    for number in range(5):
        scene.put(number, f"thing {number}", ago=1000 - number)
    rounds = scene.rounds()
    first = scene.round(rounds, compare=True)
    assert (5, 5, 0, 0) == (first.memories, first.written, first.waiting, first.left.total)
    scene.time.pass_(300)
    scene.put(5, "thing 5", ago=200)
    scene.put(0, "thing 0, changed", ago=1300, edited=scene.time.moment - timedelta(seconds=100))
    scene.store.drop(3)
    second = scene.round(rounds, compare=True)
    assert (1, 1, 1, 2) == (second.new, second.changed, second.deleted, second.written)
    assert [f"thing {number}" for number in range(6)] + ["thing 0, changed"] == scene.texts
    assert second.compared is not None
    assert (5, 0) == (second.compared.memories, second.compared.total)
    third = scene.round(rounds, compare=True)
    assert (True, 0, frozenset()) == (third.quiet, third.written, third.behind)


def test_where_nothing_proves_a_reading_whole_a_deletion_is_no_difference(scene: Scene) -> None:
    """It is not carried over either; else no step of a cutover could be taken any more."""

    def open_unproven(now: datetime) -> Reader:
        reader = scene.store.open(now)
        reader.unproven = "the store counts late"
        return reader

    scene.open_reader = open_unproven
    for number in range(2):
        scene.put(number, f"thing {number}")
    scene.round()
    scene.store.drop(1)
    done = scene.round(compare=True)
    assert done.compared is not None
    assert 0 == done.compared.total


def test_a_round_of_another_process_sends_no_more_than_one_that_goes_on(scene: Scene) -> None:
    scene.put(1, "one")
    scene.round()
    scene.put(2, "two")
    assert (1, 0) == (scene.round().written, scene.round().written)
    assert ["one", "two"] == scene.texts


def test_an_unchanged_mem0_is_not_read_and_its_users_are_caught_up_all_the_same(scene: Scene) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    first = scene.round(rounds)
    readings = scene.store.readings
    scene.time.pass_(30)
    second = scene.round(rounds)
    assert readings == scene.store.readings
    assert not second.was_read
    assert (1, 0, frozenset()) == (second.memories, second.written, second.behind)
    assert second.began_at >= first.began_at + timedelta(seconds=30)
    assert second.quiet


def test_what_waits_to_settle_is_sent_in_time_although_mem0_is_not_read_again(scene: Scene) -> None:
    scene.put(1, "just now", ago=10)
    rounds = scene.rounds()
    assert 1 == scene.round(rounds).waiting
    readings = scene.store.readings
    scene.time.pass_(60)
    assert 1 == scene.round(rounds).written
    assert readings == scene.store.readings
    assert ["just now"] == scene.texts


def test_a_comparison_and_the_first_round_after_the_cutover_began_read_all_of_mem0(scene: Scene) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    readings = scene.store.readings
    assert scene.round(rounds, compare=True).was_read
    assert readings + 1 == scene.store.readings
    record_step(scene.state, Step("start", format_time(scene.time.now()), "anna"))
    assert scene.round(rounds).was_read


def test_a_change_that_the_state_of_the_store_did_not_show_is_counted_and_the_state_no_longer_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(scene.store), "mark", lambda store, now_ns: "always the same")
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(2, "two")
    assert not scene.round(rounds).was_read
    found = scene.round(rounds, compare=True)
    assert (1, 1) == (found.missed, found.written)
    assert any("1 change of Mem0 did not show" in warning for warning in scene.reporter.warnings)
    assert scene.round(rounds).was_read


def test_a_young_text_waits_and_its_user_is_behind_until_an_older_one_can_no_longer_come(scene: Scene) -> None:
    scene.put(1, "long ago")
    scene.put(2, "just now", ago=10)
    first = scene.round(compare=True)
    assert (1, 1, {scene.user}) == (first.written, first.waiting, first.behind)
    assert first.compared is not None
    assert (1, 0) == (first.compared.waiting, first.compared.total)
    scene.time.pass_(20)
    scene.put(3, "a little before, and late to appear", ago=40)  # its writer began earlier and finished later
    assert 2 == scene.round().waiting
    scene.time.pass_(60)
    last = scene.round(compare=True)
    assert (2, 0, 0, frozenset()) == (last.written, last.late, last.waiting, last.behind)
    assert ["long ago", "a little before, and late to appear", "just now"] == scene.texts


def test_what_comes_later_than_the_settle_time_supersedes_nothing(scene: Scene) -> None:
    scene.put(1, "now", ago=100)
    scene.round()
    scene.put(2, "long before", ago=5000)
    done = scene.round()
    assert (1, 1) == (done.written, done.late)
    assert ["now", "long before"] == scene.texts
    with Ledger.open_for_reading(scene.state) as ledger:
        row = facts_of(ledger, "version.mem0_id = ?", uuid(2))[0]
    assert "none" == row["infer"]


def test_a_clock_that_is_ahead_holds_nothing_up_for_good(scene: Scene) -> None:
    scene.put(1, "from the future", ago=-(10**6))
    rounds = scene.rounds()
    assert (0, 1) == ((first := scene.round(rounds)).written, first.waiting)
    scene.time.pass_(30)
    assert 1 == scene.round(rounds).waiting
    scene.time.pass_(40)
    assert (1, 0) == ((last := scene.round(rounds)).written, last.waiting)


def test_a_newer_text_within_the_settle_time_takes_the_place_of_the_older(scene: Scene) -> None:
    scene.put(1, "first words", ago=10)
    scene.round()
    scene.time.pass_(20)
    scene.put(1, "second words", ago=30, edited=scene.time.moment)
    scene.time.pass_(70)
    assert 1 == scene.round().written
    assert ["second words"] == scene.texts


def test_what_is_deleted_within_the_settle_time_never_arrives(scene: Scene) -> None:
    scene.put(1, "kept")
    scene.put(2, "regretted", ago=5)
    scene.round()
    scene.store.drop(2)
    scene.time.pass_(100)
    done = scene.round(compare=True)
    assert (1, 0, 0) == (done.deleted, done.written, done.waiting)
    assert done.compared is not None
    assert 0 == done.compared.total
    assert ["kept"] == scene.texts


def test_a_metadata_edit_is_no_new_text_and_leaves_nobody_behind(scene: Scene) -> None:
    scene.put(1, "same words")
    scene.round()
    scene.put(1, "same words", ago=3600, edited=scene.time.moment, topic="tea")
    done = scene.round()
    assert (1, 0, 0, frozenset()) == (done.touched, done.written, done.waiting, done.behind)
    with Ledger.open_for_reading(scene.state) as ledger:
        assert "tea" in ledger.db.execute("SELECT record FROM memory").fetchone()["record"]


def test_a_memory_that_returns_is_known_again(scene: Scene) -> None:
    scene.put(1, "here")
    scene.put(2, "there")
    scene.round()
    scene.store.drop(2)
    scene.round()
    scene.put(2, "there")
    done = scene.round(compare=True)
    assert (1, 0) == (done.returned, done.written)
    assert done.compared is not None
    assert 0 == done.compared.total
    assert ["here", "there"] == sorted(scene.texts)


def test_an_export_in_between_hides_no_change(scene: Scene) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(2, "two")
    scene.export()
    done = scene.round(rounds)
    assert (0, 1) == (done.new, done.written)


def test_a_replay_in_between_does_not_take_what_waits_for_done(scene: Scene) -> None:
    scene.put(1, "one")
    scene.put(2, "two", ago=5)
    scene.round()
    done = replay(scene.server, scene.state, [scene.settings.dump])
    assert (ExitCode.DONE, 1) == (done.exit_code, done.written)
    assert 0 == scene.round(compare=True).written
    assert ["one", "two"] == scene.texts


def test_a_replay_of_one_user_in_between_leaves_the_rest_to_the_next_round(scene: Scene) -> None:
    for number, user in ((1, scene.user), (2, f"{scene.user}b")):
        scene.store.put(number, f"of {user}", user, NOON - timedelta(hours=1))
    scene.export()
    options = ReplayOptions(filters=Filters(users=frozenset({scene.user})))
    assert 1 == replay(scene.server, scene.state, [scene.settings.dump], options=options).written
    done = scene.round(compare=True)
    assert (1, 0) == (done.written, done.left.total)
    assert done.compared is not None
    assert 0 == done.compared.total


class Losing:
    """A reader that announces one row more than it gives."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def native_count(self) -> int:
        return (self._inner.native_count() or 0) + 1

    def missing(self) -> None:
        return None

    def __enter__(self) -> Losing:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()


def test_a_reading_that_does_not_add_up_is_not_planned(scene: Scene) -> None:
    scene.put(1, "one")
    scene.round()
    scene.store.drop(1)
    scene.put(2, "two")
    scene.open_reader = lambda now: Losing(scene.store.open(now))  # type: ignore[assignment, return-value]
    with pytest.raises(Incomplete):
        scene.round()
    assert ["one"] == scene.texts
    scene.open_reader = None
    done = scene.round(compare=True)
    assert (1, 1) == (done.written, done.deleted)
    assert done.compared is not None
    assert 0 == done.compared.total


def test_the_comparison_finds_what_the_ledger_does_not_know(scene: Scene, tmp_path: Path) -> None:
    scene.put(1, "one")
    scene.put(2, "two")
    scene.put(3, "three")
    rounds = scene.rounds()
    scene.round(rounds)
    with Ledger.open_for_writing(scene.state) as ledger, ledger.transaction() as db:
        db.execute("UPDATE version SET digest = 'other' WHERE mem0_id = ?", (uuid(1),))
        db.execute(f"UPDATE fact SET state = 'undecidable' WHERE {OF_MEMORY}", (uuid(2),))
        db.execute("UPDATE memory SET mem0_id = 'unheard of' WHERE mem0_id = ?", (uuid(3),))
        db.execute("UPDATE version SET mem0_id = 'unheard of' WHERE mem0_id = ?", (uuid(3),))
    done = scene.round(rounds, compare=True)
    assert done.compared is not None
    assert (2, 1, 1) == (done.compared.missing, done.compared.undecided, done.compared.extra)
    assert {uuid(1), uuid(2), uuid(3)} == set(done.compared.named)


def test_a_scope_that_is_refused_or_a_memory_nobody_can_decide_holds_its_own_user_alone(scene: Scene) -> None:
    def choose(seen: Seen) -> Fault:
        forbidden = seen.path.endswith("/facts") and f"user/{scene.user}b".encode() in seen.body
        return refusing(403, "not there") if forbidden else "none"

    with misbehaving(scene.server.base_url, choose) as proxy:
        scene.endpoint = proxy.base_url
        scene.put(1, "one")
        scene.store.put(2, "two", f"{scene.user}b", NOON - timedelta(hours=1))
        first = scene.round()
        assert (1, {f"{scene.user}b"}) == (first.written, first.behind)
        assert "not there" in (first.problem or "")
        scene.put(3, "three")
        assert 1 == scene.round().written
        proxy.choose = lambda seen: "none"
        last = scene.round(compare=True)
        assert (1, frozenset(), None) == (last.written, last.behind, last.problem)
    assert ["one", "three"] == scene.texts


def test_a_key_that_is_refused_ends_it(scene: Scene) -> None:
    scene.put(1, "one")
    with misbehaving(scene.server.base_url, lambda seen: refusing(401, "unknown key")) as proxy:
        scene.endpoint = proxy.base_url
        with pytest.raises(KeyRefused):
            scene.follow(max_seconds=60)


def test_a_round_delivers_what_is_there_though_nothing_shows_that_it_is_all_and_carries_over_no_deletion(
    scene: Scene,
) -> None:
    def unproven(now: datetime) -> Reader:
        reader = scene.store.open(now)
        reader.unproven = "the store counts late"
        return reader

    scene.open_reader = unproven
    scene.put(1, "one")
    scene.put(2, "two")
    rounds = scene.rounds()
    assert 2 == scene.round(rounds).written
    scene.store.drop(2)
    scene.put(3, "three")
    second = scene.round(rounds, compare=True)
    assert (1, 0) == (second.written, second.deleted)
    assert second.compared is not None
    assert 0 == second.compared.total
    manifest = read_manifest(scene.settings.dump)
    assert manifest is not None
    assert manifest.complete is None


def test_a_round_reads_only_what_changed_and_leaves_the_dump_that_a_whole_reading_would(scene: Scene) -> None:
    for number in range(30):
        scene.put(number, f"thing {number}", ago=9000 - number)
    rounds = scene.rounds()
    scene.round(rounds)
    readings = scene.store.readings
    scene.put(3, "thing 3, changed", ago=9000, edited=scene.time.moment - timedelta(seconds=100))
    scene.put(4, "thing 4", ago=9000, topic="more")
    scene.put(40, "thing 40", ago=100)
    scene.store.drop(7)
    second = scene.round(rounds)
    assert (readings, True) == (scene.store.readings, second.was_read)
    assert (1, 1, 1, 1) == (second.new, second.changed, second.touched, second.deleted)
    assert 2 == second.written
    scene.put(7, "thing 7 again", ago=70)
    assert 1 == scene.round(rounds).written
    laid = _dump_of(scene)
    third = scene.round(rounds, compare=True)
    assert third.compared is not None
    assert (readings + 1, 0, 0, 0) == (scene.store.readings, third.missed, third.changed, third.compared.total)
    assert laid == _dump_of(scene)
    assert [] == list(scene.settings.dump.glob("changes-*"))


def test_after_however_many_rounds_mem0_is_not_read_in_full_and_only_what_changed_is_planned(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_writer, "MOST_FILES", 2)
    for number in range(5):
        scene.put(number, f"thing {number}")
    rounds = scene.rounds()
    scene.round(rounds)
    readings = scene.store.readings
    planned = _planned_by(rounds, monkeypatch)
    for number in range(5, 12):
        scene.put(number, f"thing {number}", ago=100)
        if number % 2:
            scene.store.drop(number - 5)
        done = scene.round(rounds)
        assert (1, number % 2) == (done.new, done.deleted)
        assert 2 >= len(list(scene.settings.dump.glob("changes-*")))
        assert {uuid(number), *([uuid(number - 5)] if number % 2 else [])} == set(planned.pop())
    assert readings == scene.store.readings
    base = read_base_manifest(scene.settings.dump)
    assert base is not None
    assert 10 == base.generation, "the first reading, six files of changes, and three folds of two of them"
    folded = _dump_of(scene)
    last = scene.round(rounds, compare=True)
    assert last.compared is not None
    assert (0, 0, 0) == (last.missed, last.changed, last.compared.total)
    assert folded == _dump_of(scene)


def _dump_of(scene: Scene) -> tuple[object, ...]:
    with open_dump(scene.settings.dump) as dump:
        manifest = dump.manifest
        memories = sorted(dump.memories(), key=lambda memory: memory.id)
        return memories, manifest.memories, manifest.users, manifest.agents, manifest.returned_at, dump.tombstones


def _planned_by(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each round from now on looks at: the memories by id, None for all of them."""
    planned: list[Any] = []
    deliver = rounds._deliver

    async def noting(*given: Any, only: Any, **named: Any) -> Any:
        planned.append(only)
        return await deliver(*given, only=only, **named)

    monkeypatch.setattr(rounds, "_deliver", noting)
    return planned


def test_a_row_that_is_written_again_as_it_was_makes_no_round_plan_the_rest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = scene.time.moment - timedelta(hours=1)
    scene.store.put(1, "one", scene.user, at)
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(2, "two")
    scene.round(rounds)
    scene.store.put(1, "one", scene.user, at)
    planned = _planned_by(rounds, monkeypatch)
    done = scene.round(rounds)
    assert (False, 0) == (done.was_read, done.touched)
    assert [] == planned


def test_what_an_export_brings_between_reading_and_planning_is_planned_too(scene: Scene) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(2, "two", ago=100)
    read = rounds._mem0.read_if_changed

    async def and_then_an_export() -> Reading:
        found = await read()
        scene.put(3, "three", ago=90)
        scene.export()
        return found

    rounds._mem0.read_if_changed = and_then_an_export  # type: ignore[method-assign]
    assert 2 == scene.round(rounds).written


def test_an_export_before_a_whole_reading_leaves_no_older_text_to_be_planned(scene: Scene) -> None:
    rounds = scene.rounds()
    scene.put(1, "another")
    scene.round(rounds)
    scene.put(2, "the older text", ago=10)
    assert 1 == scene.round(rounds).waiting
    scene.time.pass_(120)
    rounds._mem0.close()  # so that everything is read
    open_reader = rounds._mem0._open_reader

    def after_an_export(now: datetime) -> Reader:
        scene.put(2, "the newer text", ago=130, edited=scene.time.moment - timedelta(seconds=70))
        scene.export()
        return open_reader(now)

    rounds._mem0._open_reader = after_an_export
    scene.round(rounds)
    assert ["another", "the newer text"] == scene.texts


def test_what_waits_is_looked_at_again_without_the_rest(scene: Scene) -> None:
    for number in range(10):
        scene.put(number, f"thing {number}")
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(20, "just now", ago=10)
    assert 1 == scene.round(rounds).waiting
    scene.time.pass_(60)
    scene.put(21, "and this", ago=100)
    assert 2 == scene.round(rounds).written
    assert ("plan", 2, 0) in scene.reporter.stages
    assert ["just now", "and this"] == sorted(scene.texts[10:], reverse=True)


def test_a_round_that_failed_after_its_reading_leaves_what_it_found_to_the_next(scene: Scene) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    scene.put(2, "two", ago=100)
    with Ledger.open_for_writing(scene.state), pytest.raises(LedgerLocked):
        scene.round(rounds)
    assert 1 == scene.round(rounds).written
    assert 0 == scene.round(rounds, compare=True).missed


def test_what_reading_the_changes_does_not_find_is_counted_and_ends_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    nothing = Changed([], [], frozenset(), 1)
    monkeypatch.setattr(QdrantChanges, "changed", lambda self, *, now: nothing)
    scene.put(2, "two", ago=100)
    assert 0 == scene.round(rounds).new
    found = scene.round(rounds, compare=True)
    assert (1, 1) == (found.missed, found.written)
    readings = scene.store.readings
    scene.round(rounds)
    assert readings + 1 == scene.store.readings


def test_an_event_that_mem0_writes_after_the_row_gives_it_its_time(scene: Scene) -> None:
    """Mem0 writes the store first and its history then: the row does not change any more."""
    history = scene.store.folder / "no-history.db"
    with closing(sqlite3.connect(history)) as db, db:
        columns = "id TEXT PRIMARY KEY, memory_id TEXT, old_memory TEXT, new_memory TEXT, event TEXT, created_at TEXT"
        db.execute(f"CREATE TABLE history ({columns}, updated_at TEXT, is_deleted INTEGER)")
    mem0_id = scene.put(1, "one")
    rounds = scene.rounds()
    scene.round(rounds)
    readings = scene.store.readings
    with closing(sqlite3.connect(history)) as db, db:
        row = ("e1", mem0_id, None, "one", "ADD", "2026-05-01T00:00:00+00:00", None, 0)
        db.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert (1, readings) == (scene.round(rounds).touched, scene.store.readings)
    with open_dump(scene.settings.dump) as dump:
        assert ["history"] == [memory.text_at_source for memory in dump.memories()]
    assert 0 == scene.round(rounds, compare=True).touched
