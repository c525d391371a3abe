"""A state in Postgres: connections that end at the wrong moment, and processes that were left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from spectron_migrate.adapter.heartbeat import UNCHANGED_S
from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.state.cutover_state import Step
from spectron_migrate.state.journal import FILE, CaughtUp, publish_routing, read_journal, record_step
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.process_status import SILENT_S
from spectron_migrate.state.routing import Routing, read_routing, write_routing
from spectron_migrate.state.routing_reader import TRUSTED_S, RoutingReader, RoutingUnreadable
from spectron_migrate.state.unreachable import StateUnreachable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

psycopg = pytest.importorskip("psycopg")

AT = "2026-11-22T10:00:00.000000Z"
START = Step("start", AT, "anna@host (1)", migration="m" * 16)


@pytest.fixture
def location(postgres_state: str) -> PostgresLocation:
    """The place of a state."""
    return parse_location(postgres_state)


@pytest.fixture
def state(location: PostgresLocation) -> Iterator[PostgresState]:
    """A state with nothing in it."""
    state = PostgresState(location)
    yield state
    state.close()


def cut_connections(location: PostgresLocation) -> None:
    """As a restart of the server does."""
    with psycopg.connect(location.url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND application_name LIKE 'spectron-migrate%' AND usename = current_user"
        )


def test_a_call_after_the_connection_was_cut_goes_through_on_a_new_one(
    state: PostgresState, location: PostgresLocation
) -> None:
    record_step(state, START)
    cut_connections(location)
    assert 1 == read_journal(state).state.epoch
    cut_connections(location)
    assert 2 == record_step(state, replace(START, step="revert")).epoch
    assert 2 == len(state.lines(FILE))


def test_a_lock_ends_with_its_connection(state: PostgresState, location: PostgresLocation) -> None:
    held = state.try_lock("follow.lock")
    assert held is not None
    cut_connections(location)
    with state.lock("follow.lock") as again:
        assert not again.is_lost
        held.close()
        assert state.is_locked("follow.lock")


def test_a_step_whose_commit_was_not_answered_is_looked_for(
    state: PostgresState, location: PostgresLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectron_migrate.database.postgres import PostgresDatabase

    record_step(state, START)
    wait = PostgresDatabase.wait

    def cut_after_the_commit(database: PostgresDatabase) -> None:
        wait(database)
        if database.execute("SELECT count(*) FROM journal").fetchone()[0] == 2 and not database.in_transaction:
            monkeypatch.setattr(PostgresDatabase, "wait", wait)
            cut_connections(location)
            wait(database)
            database.execute("SELECT 1").fetchone()

    monkeypatch.setattr(PostgresDatabase, "wait", cut_after_the_commit)
    assert 2 == record_step(state, replace(START, step="revert")).epoch
    assert 2 == len(state.lines(FILE))
    assert 2 == read_journal(state).state.epoch


def test_asking_whether_a_migration_has_begun_makes_no_schema(state: PostgresState) -> None:
    assert not state.has_begun()
    assert not state.is_there()
    record_step(state, START)
    assert not state.has_begun(), "it has no ledger yet"
    with Ledger.open_for_writing(state):
        assert state.has_begun()


def test_an_older_routing_does_not_replace_a_newer_one(state: PostgresState) -> None:
    record_step(state, START)
    old = read_routing(state)
    assert old is not None
    write_routing(state, replace(old, epoch=5, percent=10))
    write_routing(state, old)  # of a process that lost the lock between reading and writing
    assert replace(old, epoch=5, percent=10) == read_routing(state)


def test_a_database_that_is_away_is_said_to_be(location: PostgresLocation) -> None:
    away = PostgresState(PostgresLocation("postgresql://nobody@127.0.0.1:1/none", location.schema), timeout_s=1)
    with pytest.raises(StateUnreachable, match="does not answer") as raised:
        record_step(away, START)
    assert ExitCode.UNREACHABLE == raised.value.exit_code
    assert isinstance(raised.value, OSError)


class Readers:
    """An application's reader of a state's routing, on a clock of its own."""

    def __init__(self, location: PostgresLocation) -> None:
        self.moment = 1000.0
        self.location = location
        self.state = PostgresState(location, timeout_s=1)
        self.reader = RoutingReader(self.state, clock=lambda: self.moment, check_every_s=3600)

    def after(self, seconds: float) -> Routing:
        """The routing at this later time, after the background thread has asked once more."""
        self.moment += seconds
        self.reader.fetch()
        return self.reader.current()

    def lose_the_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing answers from now on."""
        self.state.close()
        self.state.connection.location = PostgresLocation("postgresql://nobody@127.0.0.1:1/none", self.location.schema)
        monkeypatch.setattr("spectron_migrate.state.postgres_connection.reconnect", None)


@pytest.fixture
def application(location: PostgresLocation) -> Iterator[Readers]:
    """An application that reads its routing from Postgres."""
    readers = Readers(location)
    yield readers
    readers.reader.close()
    readers.state.close()


def test_an_application_on_another_host_reads_each_step(state: PostgresState, application: Readers) -> None:
    assert "mem0" == application.after(0).phase
    assert "no migration has begun there" in str(application.reader.unreadable)
    record_step(state, START)
    assert "started" == application.after(0.5).phase
    assert application.reader.unreadable is None
    record_step(state, Step("shift", AT, "anna@host (1)", percent=30))
    routing = application.after(0.5)
    assert (2, 30) == (routing.epoch, routing.percent)
    publish_routing(state, CaughtUp(AT, None, frozenset()), now=AT)
    assert AT == application.after(0.5).as_of


def test_the_last_routing_is_in_force_for_a_while_after_the_database_was_lost(
    state: PostgresState, application: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_step(state, START)
    application.after(0)
    application.lose_the_database(monkeypatch)
    assert "started" == application.after(TRUSTED_S - 1).phase
    assert "started" == application.reader.for_write().phase
    application.after(2)
    with pytest.raises(RoutingUnreadable, match="nothing was written"):
        application.reader.for_write()
    assert "does not answer" in (application.reader.problem or "")


def test_a_process_that_was_stopped_before_it_read_an_answer_does_not_believe_it(
    state: PostgresState, application: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the others may have counted it as dead, and completed the cutover."""
    record_step(state, START)
    application.after(0)
    version = application.state.version

    def answered_late(name: str) -> object:
        found = version(name)
        application.moment += SILENT_S
        return found

    monkeypatch.setattr(application.state, "version", answered_late)
    application.reader.fetch()
    assert application.reader.unreadable is not None


def test_a_process_that_is_cut_off_knows_nothing_before_the_others_count_it_as_dead() -> None:
    assert TRUSTED_S + UNCHANGED_S < SILENT_S


def test_complete_is_for_ever(state: PostgresState, application: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (START, Step("closing", AT, "anna@host (1)"), Step("complete", AT, "anna@host (1)")):
        record_step(state, each)
    assert "complete" == application.after(0).phase
    application.lose_the_database(monkeypatch)
    assert "complete" == application.after(1_000_000).phase
    assert "complete" == application.reader.for_write().phase


def test_a_database_that_was_restored_to_before_the_last_step_is_not_believed(
    state: PostgresState, application: Readers
) -> None:
    record_step(state, START)
    record_step(state, Step("shift", AT, "anna@host (1)", percent=30))
    application.after(0)
    state.again(lambda db: db.execute("DELETE FROM journal WHERE n = 2"))
    state.remove("routing.json")
    assert 2 == application.after(1).epoch
    with pytest.raises(RoutingUnreadable, match="older than the last one read"):
        application.reader.for_write()


def test_a_step_reaches_a_reader_within_a_second(state: PostgresState, location: PostgresLocation) -> None:
    record_step(state, START)
    other_host = PostgresState(location)
    reader = RoutingReader(other_host)
    reader.fetch()
    reader.current()
    record_step(state, Step("shift", AT, "anna@host (1)", percent=30))
    wait_until(lambda: reader.current().percent == 30)
    reader.close()
    other_host.close()
