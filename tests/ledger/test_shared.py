"""A ledger in a schema of Postgres: one writer, readers beside it, and copies."""

from __future__ import annotations

import os

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.errors import InputError, LedgerLocked
from spectron_migrate.ledger import Ledger

pytestmark = pytest.mark.slow
CLAIM = {
    "context": "c",
    "source": "s",
    "mapping_digest": "m",
    "tool_version": "1",
    "now": "2026-01-01T00:00:00.000000Z",
}


@pytest.fixture
def location(postgres_state: str) -> PostgresLocation:
    return parse_location(postgres_state)


def test_a_second_writer_hears_which_process_of_which_host_is_at_work(location: PostgresLocation) -> None:
    with (
        Ledger.open_for_writing(location) as ledger,
        pytest.raises(LedgerLocked, match=rf"is being written by process {os.getpid()} on \S+"),
    ):
        Ledger.open_for_writing(ledger.path)


def test_a_reader_sees_what_was_committed_beside_the_writer(location: PostgresLocation) -> None:
    with Ledger.open_for_writing(location) as ledger:
        with ledger.transaction():
            made = ledger.claim(**CLAIM)
        with Ledger.open_for_reading(location) as reader:
            assert made == reader.migration()


def test_a_ledger_that_no_run_claimed_leaves_nothing(location: PostgresLocation) -> None:
    with Ledger.open_for_writing(location):
        pass
    with pytest.raises(InputError, match="there is no ledger in postgresql://"):
        Ledger.open_for_reading(location)
    with pytest.raises(InputError, match="there is no ledger in postgresql://"):
        Ledger.open_for_writing(location, create=False)


def test_a_scratch_copy_holds_the_ledger_and_changes_nothing(location: PostgresLocation) -> None:
    with Ledger.open_for_writing(location) as ledger:
        with ledger.transaction():
            made = ledger.claim(**CLAIM)
        with Ledger.scratch_copy(location) as copy:
            assert made == copy.migration()
            with copy.transaction() as db:
                db.execute("DELETE FROM migration")
        assert made == ledger.migration()


def test_a_scratch_copy_of_a_schema_that_is_not_there_is_empty(location: PostgresLocation) -> None:
    with Ledger.scratch_copy(location) as copy:
        assert copy.migration() is None
