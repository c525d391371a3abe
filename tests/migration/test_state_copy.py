"""`state copy`: all of a state in another place, one of the two the state at every moment, and backups."""

from __future__ import annotations

import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.cli.app import run
from spectron_migrate.database.location import PostgresLocation, is_url, parse_location
from spectron_migrate.database.opening import connect_writer
from spectron_migrate.database.tables import make_schema
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.files.locks import try_lock
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.state_copy import CopiedState, back_up_state, move_state
from spectron_migrate.records import Memory
from spectron_migrate.reporter import NullReporter
from spectron_migrate.state.call_log import ANYBODY, CallResult, CallSubject, begin_line, encode_results, end_line
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.journal import read_journal, record_step
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.processes import OwnFile
from spectron_migrate.state.routing import FILE as ROUTING
from spectron_migrate.state.routing import read_routing
from spectron_migrate.state.routing_reader import RoutingReader, RoutingUnreadable
from spectron_migrate.state.seal import SEAL, StateBusy, StateMoved
from spectron_migrate.state.store import StateStore
from spectron_migrate.state.use import use_state
from tests.migration import killed_copy
from tests.state.steps import MIGRATION, step
from tests.support import output, warm
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import expected_texts, is_write, replay_in_no_time, texts
from tests.support.scene import Store
from tests.support.spectron import memory, write_raw

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it moves states between files and Postgres itself
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ALICE = CallSubject(("alice",))
Place = Path | PostgresLocation


def place_of(text: str) -> Place:
    return parse_location(text) if is_url(text) else Path(text)


def copy(source: Place, target: Place) -> CopiedState:
    return move_state(source, target, now=lambda: NOW, reporter=NullReporter())


def store_of(place: Place) -> StateStore:
    return PostgresState(place) if isinstance(place, PostgresLocation) else DirectoryState(place)


@pytest.fixture
def state(spectron: RunningServer, user: str, tmp_path: Path) -> Path:
    """A state in a directory that has something of each kind."""
    folder = tmp_path / "state"
    replay_in_no_time(spectron, folder, write_raw(tmp_path / "raw.json", [memory(each, user) for each in range(3)]))
    (folder / "processes").mkdir()
    fill(DirectoryState(folder))
    added = AddedMemories(folder)
    added.add(Memory(id="m1", memory="said since", user_id="alice"), ["turn", "chunk"], (("user/alice",),))
    added.close()
    return folder


def fill(store: StateStore) -> None:
    record_step(store, step("start", migration=MIGRATION, catch_up="outbox"))
    record_step(store, step("shift", percent=5.0))
    store.write("reconciled.json", b'{"agrees": true}\n')
    store.write("processes/past.json", b"{}")
    with closing(store.call_log(patience_s=20)) as log, closing(Outbox(store, host="web-1")) as outbox:
        log.append(begin_line("41:a/1", 1, NOW.timestamp(), ALICE))
        log.append(end_line("41:a/2", NOW.timestamp(), encode_results([CallResult("ADD", "m1", "drained")])))
        outbox.delivered(outbox.batch(10, NOW), more_unknown=CallSubject(("bob",)))
        log.append(end_line("41:a/3", NOW.timestamp(), encode_results([CallResult("ADD", "m2", "waits\0\1")])))


@pytest.fixture
def database(postgres_state: str) -> PostgresLocation:
    return parse_location(postgres_state)


def test_a_state_moves_to_postgres_and_back_with_all_that_it_holds(
    state: Path, database: PostgresLocation, tmp_path: Path, user: str
) -> None:
    there = copy(state, database)
    back = copy(database, tmp_path / "back")
    rows = {each.name: each.rows for each in there.tables}
    assert {"memory": 3, "fact": 3, "receipt": 3, "added memory": 1, "added made": 2} == {
        name: rows[name] for name in ("memory", "fact", "receipt", "added memory", "added made")
    }
    assert 2 == rows["journals"]
    assert there.tables == back.tables
    store = DirectoryState(tmp_path / "back")
    assert ("shift", 5.0) == (read_journal(store).state.phase, read_journal(store).state.percent)
    routing = read_routing(store)
    assert routing is not None
    assert 0o644 == (tmp_path / "back" / "routing.json").stat().st_mode & 0o777
    with closing(Outbox(store, host="another")) as outbox:
        batch = outbox.batch(10, NOW)
        assert ["m2"] == [each.mem0_id for each in batch.results]
        assert "waits\0\1" == batch.results[0].text
        assert CallSubject(("bob",)) in outbox.unknown()
        assert ALICE in [subject for _, subject in batch.unknown]  # its process is not there
    with closing(AddedMemories(tmp_path / "back")) as added:
        kept = added.memory("m1")
        assert kept is not None
        assert "said since" == kept.memory


def test_an_outbox_in_postgres_goes_on_where_it_was_drained(state: Path, database: PostgresLocation) -> None:
    copy(state, database)
    with closing(Outbox(store_of(database), host="web-2")) as outbox:
        assert ["m2"] == [each.mem0_id for each in outbox.batch(10, NOW).results]


def test_a_ledger_in_postgres_gives_numbers_that_it_does_not_have(state: Path, database: PostgresLocation) -> None:
    copy(state, database)
    with Ledger.open_for_writing(database) as ledger, ledger.transaction() as db:
        row = db.execute("INSERT INTO lane(name) VALUES ('another') RETURNING no").fetchone()
        assert row["no"] > 1


@pytest.mark.parametrize("kind", ["directory", "postgres"])
def test_whoever_uses_a_state_that_was_moved_is_told_where_it_went(
    kind: str, state: Path, database: PostgresLocation, tmp_path: Path
) -> None:
    places: tuple[Place, Place] = (state, database) if kind == "directory" else (database, tmp_path / "back")
    if kind == "postgres":
        copy(state, database)
    copy(*places)
    left, went = places
    said = rf"was moved to {'postgresql' if kind == 'directory' else '/'}.* on 2026-11-22.*continue there: --state "
    with pytest.raises(StateMoved, match=said):
        use_state(left)
    with pytest.raises(StateMoved, match=said):
        Ledger.open_for_writing(left)
    with pytest.raises(StateMoved, match=said):
        record_step(store_of(left), step("revert"))
    with pytest.raises(StateMoved, match=said):
        OwnFile(store_of(left))
    use_state(went)
    with Ledger.open_for_writing(went) as ledger:
        assert ledger.migration() is not None


def test_whoever_only_reads_the_routing_writes_nothing_to_mem0_once_the_state_was_moved(
    state: Path, tmp_path: Path
) -> None:
    reader = RoutingReader(state, check_every_s=0)
    assert read_routing(DirectoryState(state)).epoch == reader.for_write().epoch
    copy(state, tmp_path / "there")
    for each in (reader, RoutingReader(state)):
        with pytest.raises(RoutingUnreadable, match=r"sealed\.json: the state is in another place"):
            each.for_write()
    assert not (state / ROUTING).exists()  # applications in other languages read it, and know nothing of a seal
    assert reader.current().epoch == RoutingReader(tmp_path / "there").for_write().epoch


@pytest.mark.parametrize(
    ("hold", "said"),
    [
        (lambda state: Ledger.open_for_writing(state), r"process \d+ uses the state .*ledger.lock"),
        (lambda state: DirectoryState(state).try_lock("follow.lock"), r"process \d+ uses the state .*follow.lock"),
        (lambda state: OwnFile(state), r"process \d+ uses the state .*processes/\d+.lock"),
    ],
)
def test_a_state_that_is_used_does_not_move(
    hold: Callable[[Path], OwnFile], said: str, state: Path, tmp_path: Path
) -> None:
    with closing(hold(state)), pytest.raises(StateBusy, match=said):
        copy(state, tmp_path / "to")
    use_state(state)


def test_a_state_in_postgres_that_is_used_does_not_move(
    state: Path, database: PostgresLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectron_migrate.migration.state_places.PATIENCE_S", 0.1)
    copy(state, database)
    with Ledger.open_for_writing(database), pytest.raises(StateBusy, match="another process uses the state"):
        copy(database, tmp_path / "to")
    with closing(connect_writer(database)) as db:  # an application whose connection broke a moment ago
        row = json.dumps({"host": "web-1", "pid": 41, "began": "", "heartbeat": "", "epoch": 1, "running_epoch": None})
        db.execute(
            "INSERT INTO document(name, data, epoch, version) VALUES ('processes/web-1-41.json', ?, 0, 1)",
            (row.encode(),),
        )
        with pytest.raises(StateBusy, match="applications use the state"):
            copy(database, tmp_path / "to")
    use_state(database)


def test_nobody_begins_while_a_state_is_copied(state: Path) -> None:
    lock = try_lock(state / "copy.lock")
    assert lock is not None
    with lock:
        with pytest.raises(StateBusy, match=r"is being copied by process \d+"):
            Ledger.open_for_writing(state)
        with pytest.raises(StateBusy, match=r"is being copied by process \d+"):
            OwnFile(state)
    OwnFile(state).close()


@pytest.mark.parametrize("target", ["used", "another", "itself", "inside"])
def test_a_place_that_is_not_empty_is_refused(target: str, state: Path, tmp_path: Path) -> None:
    places = {"used": tmp_path, "another": tmp_path / "other", "itself": state, "inside": state / "copy"}
    if target == "another":
        Ledger.open_for_writing(tmp_path / "other").transaction()
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "cutover.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"is not empty|are not two places"):
        copy(state, places[target])
    use_state(state)


def test_a_schema_of_another_format_is_refused(state: Path, database: PostgresLocation, tmp_path: Path) -> None:
    with closing(connect_writer(database)) as db:
        make_schema(db)
        db.execute("INSERT INTO format(part, number) VALUES ('state', 99)")
    with pytest.raises(InputError, match=r"the state in .* has format 99, this version reads format"):
        copy(state, database)
    use_state(state)


def test_a_place_without_a_state_is_refused(tmp_path: Path, database: PostgresLocation) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "nothing", tmp_path / "empty", database):
        with pytest.raises(InputError, match="there is no state in"):
            copy(source, tmp_path / "to")


def is_state(place: Place) -> bool:
    """Whether a replay could go on there."""
    try:
        use_state(place)
        with Ledger.open_for_writing(place, create=False) as ledger:
            return ledger.migration() is not None
    except MigrateError:
        return False


@pytest.mark.parametrize("at", [*range(5), *(f"seal+{later}" for later in range(4))])
@pytest.mark.parametrize("way", ["there", "back"])
def test_killed_at_any_moment_one_place_is_the_state_and_another_run_finishes(
    way: str, at: int | str, state: Path, database: PostgresLocation, tmp_path: Path
) -> None:
    source, target = str(state), database.url + f"&schema={database.schema}"
    expected = None
    if way == "back":
        expected = copy(state, database).tables
        source, target = target, str(tmp_path / "back")
    moment = random.Random(f"{way} {at}").randint(1, 160) if isinstance(at, int) else at
    words = (str(moment), source, target)
    said = tmp_path / "said.txt"
    killed = warm.start(killed_copy.main, *words, folder=tmp_path, environment=os.environ, stderr=said)
    killed.join(60)
    assert -signal.SIGKILL == killed.exitcode, said.read_text()
    assert 1 == [is_state(place_of(source)), is_state(place_of(target))].count(True), moment
    again = copy(place_of(source), place_of(target))
    assert not is_state(place_of(source))
    assert is_state(place_of(target))
    if expected is not None and again.tables:
        assert expected == again.tables


def test_where_a_copy_was_killed_after_the_seal_whoever_begins_removes_the_routing_that_was_left(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applications in other languages read it, and know nothing of a seal."""
    write = DirectoryState.write

    def dying(self: DirectoryState, name: str, *given: Any, **named: Any) -> None:
        write(self, name, *given, **named)
        if name == SEAL:
            raise KeyboardInterrupt

    monkeypatch.setattr(DirectoryState, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        copy(state, tmp_path / "there")
    monkeypatch.undo()
    use_state(tmp_path / "there")
    assert not (state / ROUTING).exists()
    assert "shift" == RoutingReader(tmp_path / "there").for_write().phase


def test_shown_as_a_table_and_as_json(
    state: Path, postgres_state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["state", "copy", str(state), str(tmp_path / "to"), "--json"])
    shown = output.check(json.loads(capsys.readouterr().out))
    assert (str(state), str(tmp_path / "to"), True, False) == tuple(
        shown[name] for name in ("from", "to", "sealed", "backup")
    )
    assert 3 == next(each["rows"] for each in shown["tables"] if each["name"] == "memory")
    assert 0 == run(["state", "copy", str(state), str(tmp_path / "to")])  # a second time there is nothing to do
    assert "by an earlier run" in capsys.readouterr().out
    for command in (
        "replay",
        "status",
        "doctor",
        "export",
        "dual-verify",
        "cutover revert",
        "erase --migration x --scope user/a",
    ):
        assert 2 == run([*command.split(), "--state", str(state), "--json"])
        error = json.loads(capsys.readouterr().out)["error"]
        assert ("moved", f"continue there: --state {tmp_path / 'to'}") == (error["kind"], error["hint"])


def a_dump(user: str, users: int = 2, each: int = 8) -> list[str]:
    """Makes a dump of some users' memories; returns the users."""
    named = [f"{user}{letter}" for letter in "abcdefgh"[:users]]
    rows = [memory(number, one) for one in named for number in range(each)]
    assert 0 == run(["export", "--from", str(write_raw(Path("all.json"), rows)), "-q"])
    return named


def each_once_in_order(server: RunningServer, users: list[str], each: int = 8) -> bool:
    return all(expected_texts(one, each) == texts(server, one) for one in users)


@pytest.mark.parametrize("source", ["directory", "postgres"])
@pytest.mark.parametrize("target", ["directory", "postgres"])
def test_a_backup_made_while_a_replay_writes_asks_for_an_adoption_and_then_writes_nothing_twice(
    source: str,
    target: str,
    led_to: RunningServer,
    user: str,
    postgres_state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    users = a_dump(user)
    state = postgres_state if source == "postgres" else str(tmp_path / "state")
    backup = f"{postgres_state}_backup" if target == "postgres" else str(tmp_path / "backup")
    made: list[CopiedState] = []

    def back_up(seen: Seen) -> Fault:
        if is_write(seen) and next(count) == 6:
            given = place_of(state), place_of(backup)
            made.append(back_up_state(*given, now=lambda: datetime.now(UTC), reporter=NullReporter()))
        return "none"

    count = itertools.count(1)
    with misbehaving(led_to.base_url, back_up) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        assert 0 == run(["replay", "--state", state, "--json"])
    assert made[0].is_backup
    assert each_once_in_order(led_to, users)
    monkeypatch.setenv("SPECTRON_ENDPOINT", led_to.base_url)
    capsys.readouterr()
    assert 2 == run(["replay", "--state", backup, "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert "is a backup of 2" in error["message"]
    typed = error["hint"][error["hint"].index("spectron-migrate ") :]
    assert 0 == run([*shlex.split(typed)[1:], "-q"])
    assert each_once_in_order(led_to, users)
    assert 0 == run(["replay", "--state", state, "-q"])  # the one that was backed up is no other than before
    drop(backup)


def drop(state: str) -> None:
    if is_url(state):
        with closing(connect_writer(parse_location(state))) as db:
            db.execute(f'DROP SCHEMA "{db.location.schema}" CASCADE')


def test_a_backup_leaves_what_is_called_after_it_to_a_reading_of_mem0(state: Path, tmp_path: Path) -> None:
    back_up_state(state, tmp_path / "backup", now=lambda: NOW, reporter=NullReporter())
    use_state(state)
    with closing(Outbox(DirectoryState(tmp_path / "backup"), host="web-1")) as outbox:
        assert ANYBODY in outbox.unknown()


def followed(said: str = "round 1:") -> None:
    """A process that follows, until it has said so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spectron_migrate", "replay", "--follow"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = list(itertools.takewhile(lambda line: said not in line, process.stderr))
    process.terminate()
    process.communicate(timeout=60)
    assert 143 == process.returncode, lines


def test_a_backup_taken_while_following_asks_for_an_adoption_and_afterwards_each_memory_is_there_once(
    led_to: RunningServer,
    user: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store(tmp_path / "mem0")
    (tmp_path / "mem0.json").write_text(json.dumps(store.config))
    (tmp_path / "spectron-migrate.yaml").write_text(
        "version: 1\nstate: state\nmem0: {oss: {config: mem0.json}}\ncutover: {settle: 0s}\n"
    )

    def put(number: int, text: str, *, edited: datetime | None = None) -> None:
        store.put(number, text, user, datetime(2026, 5, 1, number, tzinfo=UTC), edited=edited)

    def back_up(seen: Seen) -> Fault:
        if is_write(seen) and next(count) == 6:
            words = [sys.executable, "-m", "spectron_migrate", "state", "copy", "--backup", "state", "backup"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return "none"

    count = itertools.count(1)
    for number in range(12):
        put(number, "Likes tea" if number % 4 == 0 else f"Keeps fact {number}")
    with misbehaving(led_to.base_url, back_up) as proxy:
        monkeypatch.setenv("SPECTRON_ENDPOINT", proxy.base_url)
        followed()
    monkeypatch.setenv("SPECTRON_ENDPOINT", led_to.base_url)
    for number in range(12, 16):
        put(number, "Likes tea" if number % 4 == 0 else f"Keeps fact {number}")
    store.put(
        3, "Keeps another fact", user, datetime(2026, 5, 1, 3, tzinfo=UTC), edited=datetime(2026, 5, 2, tzinfo=UTC)
    )
    followed()
    before = texts(led_to, user)
    assert 17 == len(before)

    (tmp_path / "state").rename(tmp_path / "lost")
    (tmp_path / "backup").rename(tmp_path / "state")
    assert 2 == run(["replay", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert "is a backup of 2" in error["message"]
    assert before == texts(led_to, user)
    typed = error["hint"][error["hint"].index("spectron-migrate ") :]
    assert 0 == run([*shlex.split(typed)[1:], "-q"])
    assert before == texts(led_to, user)
    put(20, "Keeps a new fact")
    followed()
    assert [*before, "Keeps a new fact"] == texts(led_to, user)
