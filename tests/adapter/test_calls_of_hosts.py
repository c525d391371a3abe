"""Applications on several hosts note their calls in one database, which may be slow or away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from spectron_migrate.adapter.process_calls import ProcessCalls
from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.state.call_log import CallResult, CallSubject, encode_results
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.processes import OwnFile
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

psycopg = pytest.importorskip("psycopg")

ALICE, BOB = CallSubject(("alice",)), CallSubject(("bob",))
FOUND = encode_results([CallResult("ADD", "m1", "She moved to Rome")])


class Host:
    """One application on a host of its own."""

    def __init__(self, location: PostgresLocation) -> None:
        self.state = PostgresState(location)
        self.own = OwnFile(self.state)
        self.calls = ProcessCalls(self.state, lambda: self.own.token)
        self.calls.connect()
        assert self.calls._log is not None
        self.calls._log._budget_s = 20  # type: ignore[attr-defined]
        self.numbers = iter(range(1, 100))

    def begin(self, subject: CallSubject) -> str:
        return self.calls.note_begin(next(self.numbers), 3, self.now(), subject, capture=True)

    def end(self, call: str, subject: CallSubject) -> None:
        self.calls.note_end(call, self.now(), FOUND, subject, capture=True)

    def waits(self, subject: CallSubject, as_of: float | None = None) -> bool:
        """Whether a read of these owners stays with Mem0, where Spectron is caught up as of now."""
        return self.calls.must_wait(subject.owners[0], self.now() if as_of is None else as_of)

    @staticmethod
    def now() -> float:
        return datetime.now(UTC).timestamp()

    def close(self) -> None:
        self.calls.close()
        self.own.close()
        self.state.close()


@pytest.fixture
def location(postgres_state: str) -> PostgresLocation:
    """The place of the state."""
    return parse_location(postgres_state)


@pytest.fixture
def hosts(location: PostgresLocation) -> Iterator[tuple[Host, Host]]:
    """Two applications."""
    both = Host(location), Host(location)
    yield both
    for each in both:
        each.close()


@pytest.fixture
def outbox(location: PostgresLocation) -> Iterator[Outbox]:
    """The follower's, on a third host."""
    state = PostgresState(location)
    outbox = Outbox(state, host="follower")
    yield outbox
    outbox.close()
    state.close()


@contextmanager
def slow(location: PostgresLocation, host: Host) -> Iterator[None]:
    """Appends are not answered in time."""
    host.calls._log._budget_s = 0.05  # type: ignore[union-attr]
    with psycopg.connect(location.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(location.schema, "call_line"),))
        yield
    host.calls._log._budget_s = 20  # type: ignore[union-attr]


def test_a_call_on_one_host_is_drained_on_another_and_its_owner_waits_on_a_third(
    hosts: tuple[Host, Host], outbox: Outbox
) -> None:
    one, two = hosts
    call = one.begin(ALICE)
    assert two.waits(ALICE)
    assert not two.waits(BOB)
    one.end(call, ALICE)
    batch = outbox.batch(9, datetime.now(UTC))
    assert ["m1"] == [result.mem0_id for result in batch.results]
    outbox.delivered(batch)
    assert two.waits(ALICE, batch.as_of.timestamp() - 60)
    assert not two.waits(ALICE, batch.as_of.timestamp())


def test_a_call_whose_end_was_not_acknowledged_is_unknown_and_its_owner_reads_from_mem0(
    hosts: tuple[Host, Host], outbox: Outbox, location: PostgresLocation
) -> None:
    one, two = hosts
    call = one.begin(ALICE)
    with slow(location, one):
        one.end(call, ALICE)  # raises nothing: Mem0 has it
        assert one.waits(ALICE, one.now() + 60)
        assert two.waits(ALICE)  # for all that others know, it runs
    wait_until(lambda: (one.calls.maintain(as_of=0.0, drained=True), not one.calls._owed)[1])
    batch = outbox.batch(9, datetime.now(UTC))
    assert () == batch.results
    assert () == batch.running
    assert [ALICE] == [subject for _, subject in batch.unknown]
    outbox.delivered(batch)
    assert [ALICE] == outbox.unknown()


def test_a_call_before_the_log_is_open_is_made_counted_and_known_to_others_later(
    hosts: tuple[Host, Host], outbox: Outbox, location: PostgresLocation
) -> None:
    state = PostgresState(location)
    own = OwnFile(state)
    calls = ProcessCalls(state, lambda: own.token)
    assert calls.must_wait("bob", Host.now() + 60), "what others note cannot be seen"
    before = Host.now()
    call = calls.note_begin(1, 3, Host.now(), ALICE, capture=True)
    calls.note_end(call, Host.now(), FOUND, ALICE, capture=True)
    assert 1 == calls.unnoted
    wait_until(lambda: (calls.maintain(as_of=0.0, drained=True), not calls._owed and calls._token)[1])
    assert hosts[1].waits(ALICE, before)
    batch = outbox.batch(9, datetime.now(UTC))
    assert [ALICE] == [subject for _, subject in batch.unknown]
    call = calls.note_begin(2, 3, Host.now(), ALICE, capture=True)
    calls.note_end(call, Host.now(), FOUND, ALICE, capture=True)
    assert 1 == calls.unnoted
    calls.close()
    own.close()
    state.close()


def test_a_call_whose_beginning_was_not_acknowledged_is_made_and_captured(
    hosts: tuple[Host, Host], outbox: Outbox, location: PostgresLocation
) -> None:
    one, two = hosts
    with slow(location, one):
        call = one.begin(ALICE)
        assert one.waits(ALICE, one.now() + 60)
    wait_until(lambda: not one.calls._log._thread.is_away)  # type: ignore[union-attr]
    one.end(call, ALICE)
    assert two.waits(BOB, 1.0)  # whose call it was, nobody else knows
    batch = outbox.batch(9, datetime.now(UTC))
    assert ["m1"] == [result.mem0_id for result in batch.results]
