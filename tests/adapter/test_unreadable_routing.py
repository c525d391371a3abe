"""A process that cannot tell whether the cutover is complete does not write to Mem0."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.errors import NotLegal, Unreachable
from spectron_migrate.ledger import Ledger
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import FILE as JOURNAL
from spectron_migrate.state.journal import record_step
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.processes import read_processes
from spectron_migrate.state.routing import FILE
from spectron_migrate.state.routing_reader import RoutingReader, RoutingUnreadable
from spectron_migrate.state.store import store_at
from tests.adapter.support import TEA, Stage, Untouchable, stamp, texts
from tests.support.spectron import turns_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SAID = "Now drinks oolong tea"


def lose_state(state: Path) -> None:
    state.rename(state.with_name("elsewhere"))


def lose_volume(state: Path) -> None:
    lose_state(state)
    (state / "lost+found").mkdir(parents=True)


def lose_both_files(state: Path) -> None:
    (state / FILE).unlink()
    (state / JOURNAL).unlink()


def restore_only_the_ledger(state: Path) -> None:
    """As from a backup of `ledger.db` alone, onto a fresh volume; in a database, of the ledger's tables alone."""
    store = store_at(state)
    if store.folder is None:
        store.remove(FILE)
        store.write_lines(JOURNAL, [])
        return
    lose_state(state)
    state.mkdir()
    with (
        closing(sqlite3.connect(state.with_name("elsewhere") / "ledger.db")) as old,
        closing(sqlite3.connect(state / "ledger.db")) as new,
    ):
        old.backup(new)


def put(state: Path, routing: bytes) -> None:
    store = store_at(state)
    store.remove(FILE)  # a database keeps the one of the greatest epoch
    store.write(FILE, routing)


def routing_of(state: Path) -> bytes:
    written = store_at(state).read(FILE)
    assert written is not None
    return written


def tear_both(state: Path) -> None:
    store = store_at(state)
    put(state, routing_of(state)[:40])
    store.write_lines(JOURNAL, [store.lines(JOURNAL)[0][:40]])


def empty_both_files(state: Path) -> None:
    for name in (FILE, JOURNAL):
        (state / name).write_bytes(b"")


def forbid(state: Path) -> None:
    for name in (FILE, JOURNAL):
        (state / name).unlink()
        (state / name).mkdir()


def put_pipes(state: Path) -> None:
    for name in (FILE, JOURNAL):
        (state / name).unlink()
        os.mkfifo(state / name)


def lead_in_a_circle(state: Path) -> None:
    for name in (FILE, JOURNAL):
        (state / name).unlink()
        (state / name).symlink_to(name)


def lead_the_state_in_a_circle(state: Path) -> None:
    lose_state(state)
    state.symlink_to(state.name)


def put_a_file_in_its_place(state: Path) -> None:
    lose_state(state)
    state.write_bytes(b"")


ONLY_FILES = pytest.mark.ledger_file  # rows do not vanish one by one, and leave nothing behind
LOST_FILES = [
    lose_state,
    lose_volume,
    lose_both_files,
    empty_both_files,
    forbid,
    put_pipes,
    lead_in_a_circle,
    lead_the_state_in_a_circle,
    put_a_file_in_its_place,
]
LOSSES = [
    tear_both,
    restore_only_the_ledger,
    *(pytest.param(lose, marks=ONLY_FILES) for lose in LOST_FILES),
]
Loss = Callable[[Path], None]


def remove_routing(state: Path) -> None:
    store_at(state).remove(FILE)


def tear_routing(state: Path) -> None:
    put(state, routing_of(state)[:40])


def put_an_older_one_back(state: Path) -> None:
    put(state, older(routing_of(state)))


def older(routing: bytes) -> bytes:
    """As it was before `complete`."""
    fields = json.loads(routing)
    return json.dumps({**fields, "phase": "shift", "epoch": fields["epoch"] - 2}).encode()


HARMS = [remove_routing, tear_routing, put_an_older_one_back]


def in_mem0(stage: Stage) -> list[str]:
    return texts(stage.mem0.get_all(filters={"user_id": stage.user}))


@pytest.mark.parametrize("lose", LOSSES)
def test_a_new_process_without_the_state_writes_nothing(done: Stage, lose: Loss) -> None:
    lose(done.state)
    adapter = done.adapter(state=done.state)
    with pytest.raises(RoutingUnreadable) as raised:
        adapter.add(SAID, user_id=done.user, infer=False)
    assert raised.value.hint
    assert SAID not in in_mem0(done)


@ONLY_FILES
@pytest.mark.parametrize("call", ["update", "delete", "delete_all"])
def test_no_other_write_reaches_mem0_either(done: Stage, call: str) -> None:
    lose_state(done.state)
    adapter = done.adapter(Untouchable(), state=done.state)
    with pytest.raises(RoutingUnreadable):
        getattr(adapter, call)(*({"update": ("an-id", "x"), "delete": ("an-id",)}.get(call, ())))


@ONLY_FILES
def test_the_guides_adapter_writes_nothing_either(done: Stage) -> None:
    lose_state(done.state)
    with pytest.raises(RoutingUnreadable):
        asyncio.run(done.async_adapter(state=done.state).add(SAID, done.user, infer=False))


@pytest.mark.parametrize("lose", LOSSES)
def test_a_search_says_that_mem0_answers_it(done: Stage, lose: Loss, caplog: pytest.LogCaptureFixture) -> None:
    lose(done.state)
    adapter = done.adapter(state=done.state)
    assert TEA in texts(adapter.search("green tea", filters={"user_id": done.user}))
    assert 1 == adapter._core.counters.snapshot()["reads"]["unreadable"]
    assert any("searches are answered by Mem0, and writes are refused" in each.message for each in caplog.records)


@pytest.mark.parametrize("harm", HARMS)
def test_the_journal_makes_it_complete_without_a_good_routing(stage: Stage, harm: Loss) -> None:
    stage.say(TEA)
    stage.to_spectron()
    stage.step("closing")
    stage.step("complete")
    harm(stage.state)
    stage.adapter(Untouchable()).add(SAID, user_id=stage.user, infer=False)
    assert SAID in [turn.content for turn in turns_of(stage.server, stage.user)]


@pytest.mark.parametrize("lose", [*LOSSES, *HARMS])
def test_complete_stays_for_who_has_seen_it(done: Stage, lose: Loss) -> None:
    adapter = done.adapter(Untouchable())
    lose(done.state)
    done.notice()
    adapter.add(SAID, user_id=done.user, infer=False)
    assert SAID in [turn.content for turn in turns_of(done.server, done.user)]


@ONLY_FILES
def test_complete_stays_in_a_child_process(done: Stage) -> None:
    adapter = done.adapter(Untouchable())
    lose_state(done.state)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if adapter._core.is_complete() else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@ONLY_FILES
@pytest.mark.parametrize("lose", LOSSES)
def test_who_loses_the_state_before_complete_stops_writing_until_it_is_back(stage: Stage, lose: Loss) -> None:
    stage.start()
    adapter = stage.adapter()
    adapter.add(TEA, user_id=stage.user, infer=False)
    shutil.copytree(stage.state, stage.folder / "kept")
    lose(stage.state)
    stage.notice()
    with pytest.raises(RoutingUnreadable):
        adapter.add(SAID, user_id=stage.user, infer=False)
    shutil.rmtree(stage.state, ignore_errors=True)
    if stage.state.is_symlink() or stage.state.exists():
        stage.state.unlink()
    shutil.copytree(stage.folder / "kept", stage.state)
    adapter.add("Is back again", user_id=stage.user, infer=False)
    assert {TEA, "Is back again"} == set(in_mem0(stage))


def test_before_complete_the_journal_alone_lets_writes_go_on(stage: Stage) -> None:
    stage.start()
    remove_routing(stage.state)
    stage.adapter().add(SAID, user_id=stage.user, infer=False)
    assert [SAID] == in_mem0(stage)


@pytest.mark.ledger_file  # a URL is no path
def test_another_working_directory_changes_nothing(done: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = done.adapter(Untouchable(), state=".spectron-migrate")
    (done.folder / "other").mkdir()
    monkeypatch.chdir(done.folder / "other")
    done.notice()
    adapter.add(SAID, user_id=done.user, infer=False)
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    stray = done.adapter(state=".spectron-migrate")
    with pytest.raises(RoutingUnreadable):
        stray.add("Never written", user_id=done.user, infer=False)


def test_an_application_that_never_began_a_cutover_works(stage: Stage) -> None:
    adapter = stage.adapter()
    adapter.add(TEA, user_id=stage.user, infer=False)
    assert [TEA] == in_mem0(stage)


@ONLY_FILES
def test_so_does_one_whose_named_state_was_replayed_to_and_never_cut_over(stage: Stage) -> None:
    stage.state.mkdir(mode=0o700)
    stage.catch_up()
    stage.adapter(state=stage.state).add(TEA, user_id=stage.user, infer=False)
    assert [TEA] == in_mem0(stage)


def test_only_the_ledger_of_a_cutover_that_had_begun_refuses_writes_until_another_one_begins(stage: Stage) -> None:
    stage.start()
    stage.catch_up()
    restore_only_the_ledger(stage.state)
    with pytest.raises(RoutingUnreadable, match="a cutover began, and its journal"):
        stage.adapter(state=stage.state).add(SAID, user_id=stage.user, infer=False)
    stage.start()
    stage.adapter(state=stage.state).add(TEA, user_id=stage.user, infer=False)
    assert [TEA] == in_mem0(stage)


def test_only_the_ledger_of_a_completed_cutover_lets_nothing_supersede(done: Stage) -> None:
    done.catch_up()  # as `complete` does: it reads Mem0 once more
    restore_only_the_ledger(done.state)
    done.say("Now drinks coffee")
    with pytest.raises(NotLegal, match="a cutover was completed, and its journal"):
        done.catch_up()
    assert "Now drinks coffee" not in [turn.content for turn in turns_of(done.server, done.user)]


def restore_the_ledger_and_an_older_routing(state: Path, **changed: Any) -> None:
    """As from a backup that is mixed of three ages: the ledger's is the newest, and it lacks the journal."""
    routing = json.loads(routing_of(state))
    restore_only_the_ledger(state)
    put(state, json.dumps({**routing, **changed}).encode())


@pytest.mark.parametrize(
    "changed", [{"phase": "shift", "epoch": 2}, {"phase": "mem0", "epoch": 0}], ids=["shift", "mem0"]
)
def test_a_routing_of_before_complete_and_no_journal_beside_a_newer_ledger_refuse_writes(
    done: Stage, changed: dict[str, Any]
) -> None:
    done.catch_up()  # as `complete` does; now the ledger notes it
    journal = store_at(done.state).lines(JOURNAL)
    restore_the_ledger_and_an_older_routing(done.state, **changed)
    adapter = done.adapter(state=done.state)
    with pytest.raises(RoutingUnreadable, match="a cutover was completed, and its journal"):
        adapter.add(SAID, user_id=done.user, infer=False)
    assert SAID not in in_mem0(done)
    store_at(done.state).write_lines(JOURNAL, journal)
    done.notice()
    adapter.add(SAID, user_id=done.user, infer=False)
    assert SAID in [turn.content for turn in turns_of(done.server, done.user)]


@ONLY_FILES
def test_an_older_journal_beside_a_ledger_that_notes_a_completion_refuses_writes(
    done: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a backup of the journal and the routing, beside the ledger as it is."""
    done.catch_up()  # as `complete` does; now the ledger notes it
    before, store = in_mem0(done), store_at(done.state)
    journal = store.lines(JOURNAL)
    store.write_lines(JOURNAL, journal[:-1])
    put(done.state, json.dumps({**json.loads(routing_of(done.state)), "phase": "shift", "epoch": 2}).encode())
    adapter = done.adapter(state=done.state)
    assert adapter._core.routing.unreadable is None  # it may be the very moment of `complete`
    monkeypatch.setattr("spectron_migrate.adapter.catalogue.COMPLETING_S", 0.0)
    with pytest.raises(RoutingUnreadable, match=r"a cutover was completed, and its journal, cutover\.jsonl, is older"):
        done.adapter(state=done.state).add(SAID, user_id=done.user, infer=False)
    assert before == in_mem0(done)
    record_step(done.state, Step("revert", stamp(), "a test"))
    done.adapter(state=done.state).add(SAID, user_id=done.user, infer=False)
    assert SAID in in_mem0(done)


@pytest.mark.both_engines
@pytest.mark.parametrize(
    "changed", [{"phase": "shift", "epoch": 2}, {"phase": "mem0", "epoch": 0}], ids=["shift", "mem0"]
)
def test_an_old_routing_file_in_another_place_than_the_state_lets_no_write_reach_mem0(
    done: Stage, changed: dict[str, Any]
) -> None:
    done.catch_up()  # as `complete` does; now the ledger notes it
    before = in_mem0(done)
    old = done.folder / "old" / FILE
    old.parent.mkdir()
    old.write_text(json.dumps({**json.loads(routing_of(done.state)), **changed}))
    done.adapter(state=done.state, routing=old).add(SAID, user_id=done.user, infer=False)
    assert SAID in [turn.content for turn in turns_of(done.server, done.user)]
    restore_only_the_ledger(done.state)
    with pytest.raises(RoutingUnreadable, match="a cutover was completed, and its journal"):
        done.adapter(state=done.state, routing=old).add("Never written", user_id=done.user, infer=False)
    assert before == in_mem0(done)


@pytest.mark.ledger_file  # it names a database itself
def test_a_routing_file_beside_a_database_that_never_answered_refuses_writes(stage: Stage) -> None:
    stage.start()
    stage.catch_up()
    copy = stage.folder / "copy" / FILE
    copy.parent.mkdir()
    copy.write_bytes(routing_of(stage.state))
    adapter = stage.adapter(state="postgresql://nobody@127.0.0.1:1/none", routing=copy)
    with pytest.raises(RoutingUnreadable, match=r"cutover\.jsonl in "):
        adapter.add(SAID, user_id=stage.user, infer=False)
    assert [] == in_mem0(stage)


@pytest.mark.ledger_file  # it names a database itself
def test_a_ledger_that_a_silent_database_does_not_show_counts_as_one_that_may_note_a_completion(
    postgres_state: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:

    def silent(*_: Any, **__: Any) -> Ledger:
        raise Unreachable("the database does not answer")

    with Ledger.open_for_writing(parse_location(postgres_state)):
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "open_for_reading", silent)
            adapter = stage.adapter(state=postgres_state)
            with pytest.raises(RoutingUnreadable, match="the database does not answer"):
                adapter.add(SAID, user_id=stage.user, infer=False)
        wait_until(lambda: adapter._core.routing.unreadable is None)
        adapter.add(SAID, user_id=stage.user, infer=False)
    assert [SAID] == in_mem0(stage)


def test_a_routing_that_knows_as_much_as_the_ledger_lets_writes_go_on_without_the_journal(stage: Stage) -> None:
    if store_at(stage.state).folder is None:
        pytest.skip("a database has the journal or nothing")
    stage.start()
    stage.catch_up()
    (stage.state / JOURNAL).unlink()
    stage.adapter(state=stage.state).add(SAID, user_id=stage.user, infer=False)
    assert [SAID] == in_mem0(stage)


@pytest.mark.parametrize("named", [{"routing": "https://127.0.0.1:9/routing.json"}, {"routing": "gone/routing.json"}])
def test_a_routing_that_was_named_and_never_read_refuses_writes(stage: Stage, named: dict[str, Any]) -> None:
    with pytest.raises(RoutingUnreadable):
        stage.adapter(**named).add(SAID, user_id=stage.user, infer=False)


@pytest.mark.ledger_file  # it names a database itself
def test_a_schema_in_which_no_migration_began_refuses_writes(postgres_state: str, stage: Stage) -> None:
    """Its name may be mistyped, and the cutover complete in another one."""
    adapter = stage.adapter(state=postgres_state)
    with pytest.raises(RoutingUnreadable, match="no migration has begun there"):
        adapter.add(SAID, user_id=stage.user, infer=False)
    assert [] == texts(adapter.search("tea", filters={"user_id": stage.user}))
    assert 1 == adapter._core.counters.snapshot()["reads"]["unreadable"]
    with Ledger.open_for_writing(parse_location(postgres_state)):
        wait_until(lambda: adapter._core.routing.unreadable is None)
        adapter.add(SAID, user_id=stage.user, infer=False)
    assert [SAID] == in_mem0(stage)


@pytest.mark.ledger_file  # it names a database itself
@pytest.mark.parametrize("kind", ["adapter", "async_adapter"])
def test_an_application_makes_no_schema(postgres: str, postgres_state: str, stage: Stage, kind: str) -> None:
    """A mistyped address must not become a state that others would find."""
    adapter = getattr(stage, kind)(state=postgres_state)
    core = adapter._core
    core.routing.fetch()
    core.heartbeat.begin()
    core.process_calls.maintain(as_of=0.0, drained=False)
    core.process_calls.maintain(as_of=0.0, drained=True)
    assert core.process_calls.must_wait(stage.user, 0.0)
    core.heartbeat.beat()
    core.close()
    with pytest.importorskip("psycopg").connect(postgres) as db:
        schema = parse_location(postgres_state).schema
        assert [] == db.execute("SELECT nspname FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall()


@pytest.mark.ledger_file  # it names a database itself
def test_an_application_that_began_before_the_migration_reports_itself_once_it_has_begun(
    postgres_state: str, stage: Stage
) -> None:
    adapter = stage.adapter(state=postgres_state)
    adapter._core.heartbeat.beat()
    with closing(PostgresState(parse_location(postgres_state))) as state:
        assert not read_processes(state).measured
        record_step(state, Step("start", stamp(), "a test", migration=stage.migration))
        adapter._core.heartbeat.beat()
        assert 1 == len(read_processes(state).reports)


@pytest.mark.parametrize("phase", ["before", "started", "complete"])
def test_a_write_after_close_is_refused(stage: Stage, phase: str) -> None:
    if phase != "before":
        stage.start()
    if phase == "complete":
        stage.step("complete")
    adapter = stage.adapter()
    adapter.add(TEA, user_id=stage.user, infer=False)
    adapter._core.close()
    with pytest.raises(NotLegal, match="the adapter is closed"):
        adapter.add(SAID, user_id=stage.user, infer=False)


@pytest.mark.ledger_file  # of the disk
def test_a_disk_that_fails_is_no_sign_that_no_cutover_began(done: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def failing(path: Any, *given: Any, **named: Any) -> Any:
        if str(done.state) in os.fspath(path):
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", failing)
        reader = RoutingReader(done.state, named=False)
        assert "mem0" == reader.current().phase
        with pytest.raises(RoutingUnreadable, match="Input/output error"):
            reader.for_write()
    assert "complete" == RoutingReader(done.state).current().phase
