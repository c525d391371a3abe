"""`state copy`: all of a state in another place, one of the two the state at every moment, and backups."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spectron_migrate.adapter.added_memories import AddedMemories
from spectron_migrate.cli.app import run
from spectron_migrate.database.location import PostgresLocation, is_url, parse_location
from spectron_migrate.database.opening import connect_writer
from spectron_migrate.errors import InputError, MigrateError
from spectron_migrate.files.locks import try_lock
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.state_copy import CopiedState, move_state
from spectron_migrate.records import Memory, NullReporter
from spectron_migrate.state.call_log import CallResult, CallSubject, begin_line, encode_results, end_line
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.journal import read_journal, record_step
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.processes import OwnFile
from spectron_migrate.state.routing import read_routing
from spectron_migrate.state.seal import StateBusy, StateMoved
from spectron_migrate.state.store import StateStore
from spectron_migrate.state.use import use_state
from tests.state.steps import MIGRATION, step
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, write_raw

pytestmark = pytest.mark.slow
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
    said = rf"was moved to {'postgresql' if kind == 'directory' else '/'}.* on 2026-11-22.*go on there: --state "
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
    monkeypatch.setattr("spectron_migrate.migration.state_copy.PATIENCE_S", 0.1)
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
    killed = subprocess.run(
        [sys.executable, "-m", "tests.migration.killed_copy", str(moment), source, target],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert -signal.SIGKILL == killed.returncode, killed.stderr
    assert [is_state(place_of(source)), is_state(place_of(target))].count(True) == 1, moment
    again = copy(place_of(source), place_of(target))
    assert not is_state(place_of(source))
    assert is_state(place_of(target))
    if expected is not None and again.tables:
        assert expected == again.tables


def test_shown_as_a_table_and_as_json(
    state: Path, postgres_state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == run(["state", "copy", str(state), str(tmp_path / "to"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (str(state), str(tmp_path / "to"), True, False) == tuple(
        shown[name] for name in ("from", "to", "sealed", "backup")
    )
    assert 3 == next(each["rows"] for each in shown["tables"] if each["name"] == "memory")
    assert 0 == run(["state", "copy", str(state), str(tmp_path / "to")])  # a second time there is nothing to do
    assert "by an earlier run" in capsys.readouterr().out
