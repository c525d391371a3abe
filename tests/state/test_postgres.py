"""A state in Postgres: connections that end at the wrong moment, and processes that were left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.errors import ExitCode
from spectron_migrate.state.journal import FILE, Step, read_journal, record_step
from spectron_migrate.state.postgres import PostgresState, StateUnreachable
from spectron_migrate.state.routing import read_routing, write_routing

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
