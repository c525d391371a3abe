"""`replay --adopt`: after a ledger was lost, restored or copied, or the server restored, nothing is there twice."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from spectron_migrate.errors import ExitCode, MigrateError, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from spectron_migrate.records import Memory, format_time
from tests.support.copies import copy_state, lose_state
from tests.support.engines import named
from tests.support.here import server_here
from tests.support.ledgers import facts_of
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import TODAY, complete_scan, mapping_file
from tests.support.scene import RecordingReporter, Scene, Store
from tests.support.spectron import memory, replay, turns_of, write_raw
from tests.support.warm import start_command
from tests.verify.support import verify

pytestmark = pytest.mark.slow

ADOPT = ReplayOptions(adopt=True)
LONG = " ".join(f"Chapter {number} is about the journey to the sea." for number in range(150))
"""Several passages on the local server."""
NONE = "infer: none\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of a generation whose hits name their session."""
    with server_here(tmp_path / "data", context="tests", api="0.3.0") as server:
        yield server


def scanned(folder: Path, rows: list[Memory], *, hours: int = -24) -> Path:
    """A complete dump that was read so many hours from now."""
    return complete_scan(folder, rows, TODAY + timedelta(hours=hours))


def row(user: str, number: int, text: str, **more: object) -> Memory:
    at = format_time(TODAY - timedelta(days=400) + timedelta(hours=number))
    named = {"created_at": at, "text_at": at, "text_at_source": "created_at", **more}
    return Memory(id=f"{user}-{number:05d}", memory=text, user_id=user, **named)  # type: ignore[arg-type]


def edited(old: Memory, text: str) -> Memory:
    """The memory with a newer text."""
    at = format_time(TODAY - timedelta(days=1))
    return Memory(
        id=old.id, memory=text, user_id=old.user_id, created_at=old.created_at, text_at=at, text_at_source="history"
    )


def texts(server: RunningServer, user: str) -> list[str]:
    return [turn.content for turn in turns_of(server, user)]


def receipts(state: Path) -> dict[str, str]:
    """Who decided each stored memory, by id."""
    with Ledger.open_for_reading(state) as ledger:
        return {
            fact["mem0_id"]: fact["decided_by"]
            for fact in facts_of(ledger, "fact.state IN ('written', 'stored_not_extracted')")
        }


def go(server: RunningServer, state: Path, dump: Path, mapping: Path | None = None) -> str:
    return verify(server, state, [dump], mapping=mapping).verdict


def without_listing(sessions: set[str]) -> Callable[[Seen], Fault]:
    """The server no longer lists these sessions."""

    def choose(seen: Seen) -> Fault:
        gone = "/turns" in seen.path and any(f"/{session}/" in seen.path for session in sessions)
        return refusing(404, "no such session") if gone else "none"

    return choose


@pytest.mark.parametrize("infer", ["", NONE])
def test_a_lost_ledger_finds_everything_and_writes_nothing_twice(
    server: RunningServer, tmp_path: Path, infer: str
) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(130)]
    rows += [row("bob", number, f"alice keeps fact number {number}") for number in range(5)]
    rows += [row("alice", 200 + number, "Likes tea") for number in range(3)]
    rows += [row("bob", 300, LONG), row("bob", 301, LONG + " The end.")]
    dump, mapping = scanned(tmp_path / "dump", rows), mapping_file(tmp_path, infer)
    replay(server, tmp_path / "state", [dump], mapping=mapping)
    before = {user: texts(server, user) for user in ("alice", "bob")}
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [dump], mapping=mapping, options=ADOPT)

    assert before == {user: texts(server, user) for user in ("alice", "bob")}
    assert (140, 0, ExitCode.DONE) == (done.already, done.written, done.exit_code)
    assert {"adopted"} == set(receipts(tmp_path / "state").values())
    assert done.adoption is not None
    assert done.adoption.requests < 140
    assert "GO" == go(server, tmp_path / "state", dump, mapping)
    assert 0 == replay(server, tmp_path / "state", [dump], mapping=mapping).written


def test_what_is_not_there_is_written(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(20)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:12])])
    lose_state(tmp_path / "state")
    dump = scanned(tmp_path / "dump", rows)

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert (12, 8, 0) == (done.already, done.written, done.late)
    assert [one.memory for one in rows] == texts(server, "alice")
    assert "GO" == go(server, tmp_path / "state", dump)


def test_what_is_older_than_an_adopted_memory_is_late(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, f"Lives in city number {number}") for number in range(10)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[5:])])
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [scanned(tmp_path / "dump", rows)], options=ADOPT)

    assert (5, 5, 5) == (done.already, done.written, done.late)
    assert 10 == len(texts(server, "alice"))


def test_a_newer_text_is_written_over_the_older_one_that_the_server_has(server: RunningServer, tmp_path: Path) -> None:
    old = [row("alice", 0, "Lives in Berlin"), row("alice", 1, "Likes tea"), row("alice", 2, "Likes chess")]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", old)])
    lose_state(tmp_path / "state")
    new = [edited(old[0], "Lives in Rome"), old[1], edited(old[2], "Likes go")]
    dump = scanned(tmp_path / "dump", new, hours=+1)

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert ["Lives in Berlin", "Likes tea", "Likes chess", "Lives in Rome", "Likes go"] == texts(server, "alice")
    assert (1, 2, 0, ExitCode.DONE) == (done.already, done.written, done.late, done.exit_code)
    assert "Rome" in current(server, "lives_in")
    assert "GO" == go(server, tmp_path / "state", dump)


def current(server: RunningServer, key: str) -> set[str]:
    """The values of an attribute that stand on the server."""
    with closing(sqlite3.connect(server.database)) as db:
        rows = db.execute(
            "SELECT value FROM attribute JOIN item ON item.id = attribute.id WHERE key = ? AND until IS NULL", (key,)
        )
        return {value for (value,) in rows}


def test_a_text_that_may_be_newer_than_the_dump_holds_its_lane(server: RunningServer, tmp_path: Path) -> None:
    old = [row("alice", 0, "Likes tea"), row("alice", 1, "Lives in Berlin")]
    new = [old[0], edited(old[1], "Lives in Rome")]
    replay(server, tmp_path / "state", [scanned(tmp_path / "new", new)])
    lose_state(tmp_path / "state")
    dump = scanned(tmp_path / "dump", old)  # read before the other ledger wrote "Rome"

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert ["Likes tea", "Lives in Rome"] == texts(server, "alice")
    assert (ExitCode.REFUSED, 1) == (done.exit_code, done.undecidable)
    assert [("alice-00001", "undecidable")] == [(one["id"], one["state"]) for one in done.reasons]
    absent = ReplayOptions(resolve={"alice-00001": "absent"})
    replay(server, tmp_path / "state", [dump], options=absent)
    assert ["Likes tea", "Lives in Rome", "Lives in Berlin"] == texts(server, "alice")


def test_a_newer_export_decides_what_held_its_lane(server: RunningServer, tmp_path: Path) -> None:
    old = [row("alice", 0, "Likes tea"), row("alice", 1, "Lives in Berlin")]
    new = [old[0], edited(old[1], "Lives in Rome")]
    replay(server, tmp_path / "state", [scanned(tmp_path / "new", new)])
    lose_state(tmp_path / "state")
    replay(server, tmp_path / "state", [scanned(tmp_path / "dump", old)], options=ADOPT)
    dump = scanned(tmp_path / "newest", new, hours=+1)

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert ["Likes tea", "Lives in Rome"] == texts(server, "alice")
    assert (2, 0, ExitCode.DONE) == (done.already, done.written, done.exit_code)
    assert "GO" == go(server, tmp_path / "state", dump)


def test_without_extraction_no_lane_is_held(server: RunningServer, tmp_path: Path) -> None:
    old, mapping = [row("alice", 0, "Likes tea"), row("alice", 1, "Lives in Berlin")], mapping_file(tmp_path, NONE)
    new = [old[0], edited(old[1], "Lives in Rome")]
    replay(server, tmp_path / "state", [scanned(tmp_path / "new", new)], mapping=mapping)
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [scanned(tmp_path / "dump", old)], mapping=mapping, options=ADOPT)

    assert (1, 1, ExitCode.DONE) == (done.already, done.written, done.exit_code)


def test_one_turn_is_the_receipt_of_one_memory_only(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, "Likes tea") for number in range(8)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:5])])
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [scanned(tmp_path / "dump", rows)], options=ADOPT)

    assert (5, 3) == (done.already, done.written)
    assert 8 == len(texts(server, "alice"))


def test_more_equal_texts_than_a_query_shows_are_adopted_or_named_never_doubled(
    server: RunningServer, tmp_path: Path
) -> None:
    mapping = mapping_file(tmp_path, NONE + "session: {by: run_id, size: 20}\n")
    rows = [row("alice", number, "ok") for number in range(130)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "dump", rows)], mapping=mapping)
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [tmp_path / "dump"], mapping=mapping, options=ADOPT)

    assert 130 == len(texts(server, "alice"))
    assert 130 == done.already + done.undecidable
    assert done.already >= 40
    assert ExitCode.REFUSED == done.exit_code


def test_the_same_text_where_several_scopes_see_it_stays_in_its_own(server: RunningServer, tmp_path: Path) -> None:
    mine = [row("alice", number, f"Note number {number}") for number in range(4)]
    shared = [row("alice", 10 + number, f"Note number {number}", agent_id="bot") for number in range(4)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", mine)])
    lose_state(tmp_path / "state")
    dump = scanned(tmp_path / "dump", [*mine, *shared])

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert (4, 4, 0) == (done.already, done.written, done.undecidable)
    scopes = Counter(turn.scopes for turn in turns_of(server, "alice"))
    assert {("user/alice/",): 4, ("user/alice/agent/bot/",): 4} == scopes
    assert "GO" == go(server, tmp_path / "state", dump)


@pytest.mark.parametrize("infer", ["", NONE])
def test_a_backup_taken_earlier_takes_over_what_was_written_since(
    server: RunningServer, tmp_path: Path, infer: str
) -> None:
    mapping, state = mapping_file(tmp_path, infer), tmp_path / "state"
    rows = [row("alice", number, f"alice keeps fact number {number % 40}") for number in range(60)]
    replay(server, state, [scanned(tmp_path / "first", rows[:25])], mapping=mapping)
    copy_state(state, tmp_path / "backup")
    dump = scanned(tmp_path / "dump", rows)
    replay(server, state, [dump], mapping=mapping)
    lose_state(state)
    copy_state(tmp_path / "backup", state)

    done = replay(server, state, [dump], mapping=mapping, options=ADOPT)

    assert [one.memory for one in rows] == texts(server, "alice")
    assert (60, 0, ExitCode.DONE) == (done.already, done.written, done.exit_code)
    assert Counter({"answer": 25, "adopted": 35}) == Counter(receipts(state).values())
    assert "GO" == go(server, state, dump, mapping)


@pytest.mark.parametrize("infer", ["", NONE])
def test_a_restored_server_gets_again_what_is_gone(tmp_path: Path, infer: str) -> None:
    mapping, state = mapping_file(tmp_path, infer), tmp_path / "state"
    users = ("alice", "bob", "carl")
    rows = [row(user, number, f"{user} keeps fact number {number}") for user in users for number in range(30)]
    with server_here(tmp_path / "data", context="tests", api="0.3.0") as server:
        first = [one for one in rows if one.user_id == "alice" or (one.user_id == "bob" and one.id < "bob-00012")]
        replay(server, state, [scanned(tmp_path / "first", first)], mapping=mapping)
    shutil.copytree(tmp_path / "data", tmp_path / "backup")
    with server_here(tmp_path / "data", context="tests", api="0.3.0") as server:
        dump = scanned(tmp_path / "dump", rows)
        replay(server, state, [dump], mapping=mapping)
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(tmp_path / "backup", tmp_path / "data")
    with server_here(tmp_path / "data", context="tests", api="0.3.0") as server:
        with pytest.raises(MigrateError):
            replay(server, state, [dump], mapping=mapping)

        done = replay(server, state, [dump], mapping=mapping, options=ADOPT)

        assert (48, ExitCode.DONE) == (done.written, done.exit_code)
        for user in users:
            assert [one.memory for one in rows if one.user_id == user] == texts(server, user)
        assert "GO" == go(server, state, dump, mapping)


def test_a_server_that_shows_nothing_of_the_ledger_is_refused(server: RunningServer, tmp_path: Path) -> None:
    dump = scanned(tmp_path / "dump", [row("alice", 0, "Likes tea")])
    replay(server, tmp_path / "state", [dump])
    with (
        server_here(tmp_path / "other", context="tests", api="0.3.0") as other,
        pytest.raises(WrongLedger, match="has nothing of what the ledger"),
    ):
        replay(other, tmp_path / "state", [dump], options=ADOPT)
    assert {"alice-00000": "answer"} == receipts(tmp_path / "state")


def test_one_session_that_ended_is_refused_and_the_hint_works(server: RunningServer, tmp_path: Path) -> None:
    """The marker shows the server, but not that it still has what was written to the session."""
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(10)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:8])])
    before = texts(server, "alice")
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        sessions = {fact["server_id"] for fact in facts_of(ledger)}
    assert 1 == len(sessions)
    dump = scanned(tmp_path / "dump", rows)

    with misbehaving(server.base_url, without_listing(sessions)) as proxy:
        with pytest.raises(WrongLedger) as refused:
            replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
        assert "replay --adopt" in str(refused.value.hint)
        done = replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url, options=ADOPT)

        assert (ExitCode.DONE, 2) == (done.exit_code, done.written)
        assert [*before, *(one.memory for one in rows[8:])] == texts(server, "alice")
        assert ExitCode.DONE == replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url).exit_code


def test_a_server_restored_to_the_moment_after_the_marker_gets_again_what_is_gone(tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(8)]
    dump, backed_up = scanned(tmp_path / "dump", rows), False

    def back_up(seen: Seen) -> Fault:
        nonlocal backed_up
        if seen.path.endswith("/sessions") and not backed_up:
            backed_up = True
            (tmp_path / "backup").mkdir()
            database = next((tmp_path / "data").rglob("*.sqlite"))
            copy = tmp_path / "backup" / database.name
            with closing(sqlite3.connect(database)) as db, closing(sqlite3.connect(copy)) as to:
                db.backup(to)
        return "none"

    with (
        server_here(tmp_path / "data", context="tests", api="0.3.0") as server,
        misbehaving(server.base_url, back_up) as proxy,
    ):
        replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url)
    with server_here(tmp_path / "backup", context="tests", api="0.3.0") as server:
        assert [] == texts(server, "alice")
        with pytest.raises(WrongLedger):
            replay(server, tmp_path / "state", [dump])
        done = replay(server, tmp_path / "state", [dump], options=ADOPT)

        assert (ExitCode.DONE, 8) == (done.exit_code, done.written)
        assert [one.memory for one in rows] == texts(server, "alice")


def test_memories_planned_after_an_adoption_are_looked_for_too(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(10)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "whole", rows)])
    lose_state(tmp_path / "state")
    replay(server, tmp_path / "state", [scanned(tmp_path / "part", rows[:4], hours=-30)], options=ADOPT)

    done = replay(server, tmp_path / "state", [scanned(tmp_path / "dump", rows)])

    assert [one.memory for one in rows] == texts(server, "alice")
    assert (10, 0) == (done.already, done.written)


def test_an_unknown_turn_that_mem0_no_longer_has_is_stale_and_hidden(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, "Likes tea" if number < 3 else f"Likes tea number {number}") for number in range(8)]
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows)])
    lose_state(tmp_path / "state")
    dump = scanned(tmp_path / "dump", [one for one in rows if one.id[-1] not in "16"], hours=+1)

    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    report = verify(server, tmp_path / "state", [dump]).report
    assert (6, 0) == (done.already, done.written)
    assert "GO" == report["verdict"]
    assert 2 == report["measured"]["integrity"]["stale"]


def test_a_session_that_cannot_be_listed_gives_receipts_without_a_turn(server: RunningServer, tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(6)]
    rows += [row("alice", 10, LONG), row("alice", 11, "Likes tea"), row("alice", 12, "Likes tea")]
    dump = scanned(tmp_path / "dump", rows)
    replay(server, tmp_path / "state", [dump])
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        sessions = {fact["server_id"] for fact in facts_of(ledger)}
    lose_state(tmp_path / "state")
    with misbehaving(server.base_url, without_listing(sessions)) as proxy:
        done = replay(server, tmp_path / "state", [dump], options=ADOPT, endpoint=proxy.base_url)

        assert (9, 0) == (done.already, done.written)
        assert done.adoption is not None
        assert 9 == done.adoption.without_turn
        assert 9 == len(texts(server, "alice"))
        assert 0 == replay(server, tmp_path / "state", [dump], endpoint=proxy.base_url).written


def test_an_older_generation_gives_receipts_without_a_turn_and_names_what_it_cannot_show(tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(6)]
    rows += [row("alice", 10, LONG), row("alice", 11, "Likes tea"), row("alice", 12, "Likes tea")]
    rows += [row("bob", 0, "Likes tea"), *(row("carl", number, "ok") for number in range(60))]
    with server_here(tmp_path / "data", context="tests", api="0.0.0") as server:
        replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:-1])])
        lose_state(tmp_path / "state")

        done = replay(
            server, tmp_path / "state", [scanned(tmp_path / "dump", [*rows, row("bob", 1, "New")])], options=ADOPT
        )

        assert (60, 1, 10) == (done.already, done.written, done.undecidable)
        assert {"carl"} == {one["id"].split("-")[0] for one in done.reasons}
        assert [9, 2, 59] == [len(texts(server, user)) for user in ("alice", "bob", "carl")]


def test_hits_that_name_a_session_without_a_turn_are_enough(tmp_path: Path) -> None:
    rows = [row("alice", number, f"alice keeps fact number {number % 7}") for number in range(20)]
    dump = scanned(tmp_path / "dump", rows)
    with server_here(tmp_path / "data", context="tests", api="0.3.0", reading={"hits_name_turn": False}) as server:
        replay(server, tmp_path / "state", [dump])
        lose_state(tmp_path / "state")

        done = replay(server, tmp_path / "state", [dump], options=ADOPT)

        assert (20, 0, 20) == (done.already, done.written, len(texts(server, "alice")))


def test_batches_are_adopted(server: RunningServer, tmp_path: Path) -> None:
    mapping = mapping_file(tmp_path, "infer: none\nwrite: batch\n")
    rows = [row("alice", number, f"alice keeps fact number {number}") for number in range(70)]
    dump = scanned(tmp_path / "dump", rows)
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:50])], mapping=mapping)
    lose_state(tmp_path / "state")

    done = replay(server, tmp_path / "state", [dump], mapping=mapping, options=ADOPT)

    assert (50, 20) == (done.already, done.written)
    assert Counter(one.memory for one in rows) == Counter(texts(server, "alice"))


@pytest.mark.parametrize(("at", "is_adopting"), [(4, True), (9, True), (30, False)])
def test_an_adoption_that_is_killed_goes_on_and_nothing_else_may_write(
    server: RunningServer, tmp_path: Path, at: int, *, is_adopting: bool
) -> None:
    rows = [row(f"user{user}", number, f"user{user} keeps {number % 9}") for user in range(6) for number in range(25)]
    dump = scanned(tmp_path / "dump", rows)
    replay(server, tmp_path / "state", [scanned(tmp_path / "first", rows[:-5])])
    lose_state(tmp_path / "state")
    killed(server, tmp_path, dump, at)

    if is_adopting:
        with pytest.raises(WrongLedger, match="was begun and not finished"):
            replay(server, tmp_path / "state", [dump])
    done = replay(server, tmp_path / "state", [dump], options=ADOPT)

    assert ExitCode.DONE == done.exit_code
    for user in range(6):
        expected = Counter(one.memory for one in rows if one.user_id == f"user{user}")
        assert expected == Counter(texts(server, f"user{user}"))
    assert "GO" == go(server, tmp_path / "state", dump)


def killed(server: RunningServer, folder: Path, dump: Path, at: int) -> None:
    """An adoption in a process of its own, killed at its n-th request."""
    running: list[ForkServerProcess] = []
    count = 0

    def kill(_: Seen) -> Fault:
        nonlocal count
        count += 1
        if count == at:
            running[0].kill()
        return "none"

    with misbehaving(server.base_url, kill) as proxy:
        environment = {
            **os.environ,
            "SPECTRON_CONTEXT": server.context,
            "SPECTRON_API_KEY": server.api_key,
            "SPECTRON_ENDPOINT": proxy.base_url,
        }
        state = named(folder / "state")
        words = ["replay", "--adopt", "--max-in-flight", "2", "--dump", str(dump), "--state", state, "--json"]
        running.append(start_command(folder, *words, environment=environment))
        running[0].join(60)
    assert -signal.SIGKILL == running[0].exitcode


def test_a_backup_taken_while_following_goes_on(server: RunningServer, tmp_path: Path) -> None:
    scene = Scene(Store(tmp_path / "mem0"), server, tmp_path, "alice")
    for number in range(12):
        scene.put(number, "Likes tea" if number % 4 == 0 else f"alice keeps fact number {number}")
    scene.round()
    copy_state(scene.state, tmp_path / "backup")
    for number in range(12, 20):
        scene.put(number, "Likes tea" if number % 4 == 0 else f"alice keeps fact number {number}", ago=120)
    scene.put(3, "alice keeps another fact", ago=110)
    scene.time.pass_(300)
    scene.round()
    before = scene.texts
    lose_state(scene.state)
    copy_state(tmp_path / "backup", scene.state)
    scene.time.pass_(60)

    done = replay(server, scene.state, [scene.export()], options=ADOPT)

    assert (20, 0, ExitCode.DONE) == (done.already, done.written, done.exit_code)
    scene.put(30, "alice keeps a new fact", ago=0)
    scene.time.pass_(300)
    scene.round()
    assert [*before, "alice keeps a new fact"] == scene.texts
    assert "GO" == go(server, scene.state, scene.settings.dump)


def test_the_cost_is_said_before_anything_is_sent(server: RunningServer, tmp_path: Path) -> None:
    rows = write_raw(tmp_path / "all.json", [memory(number, "alice") for number in range(30)])
    replay(server, tmp_path / "state", [rows])

    reporter = RecordingReporter()
    lose_state(tmp_path / "state")
    replay(server, tmp_path / "state", [rows], options=ADOPT, reporter=reporter)

    assert any("about 2 requests if they are there, at most 61" in line for line in reporter.lines)
