"""Processes of several hosts report themselves in one state, and are told apart from dead ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.state import processes
from spectron_migrate.state.call_log import CallSubject, begin_line
from spectron_migrate.state.outbox import Outbox
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.process_status import ProcessStatus, stamp
from spectron_migrate.state.processes import OwnFile, fold, is_process_alive, read_processes
from spectron_migrate.state.store import StateStore

Another = Callable[[], StateStore]
ALICE = CallSubject(("alice",))
TODAY = datetime.now(UTC).date().isoformat()
IN_POSTGRES = pytest.mark.parametrize("engine", ["postgres"], indirect=True)


def status(own: OwnFile, *, ended: bool = False, epoch: int = 3, **more: object) -> ProcessStatus:
    now = stamp(datetime.now(UTC))
    return ProcessStatus(own.host, own.pid, now, now, epoch=epoch, ended=now if ended else None, **more)  # type: ignore[arg-type]


def test_a_process_is_seen_until_it_says_that_it_ends(another: Another) -> None:
    one, two = another(), another()
    own = OwnFile(one)
    own.write(status(own, reads={"mem0": 3}))
    found = read_processes(two)
    assert [3] == [each.epoch for each in found.reports]
    assert {"mem0": 3} == found.reads
    assert 1 == len(found.not_on(4))
    assert is_process_alive(two, own.token)
    own.write(status(own, ended=True, reads={"mem0": 4}))
    own.close()
    assert () == read_processes(two).reports
    assert not is_process_alive(two, own.token)
    fold(two)
    later = read_processes(two)
    assert {"mem0": 4} == later.reads
    assert {} == later.lost


def test_two_processes_do_not_take_one_name(another: Another) -> None:
    one, two = OwnFile(another()), OwnFile(another())
    assert one.token != two.token
    for own in (one, two):
        own.write(status(own))
    assert 2 == len(read_processes(another()).reports)


@IN_POSTGRES
def test_a_process_that_was_cut_off_lives_until_it_was_silent_for_long(
    another: Another, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = another(), another()
    own = OwnFile(one)
    own.write(status(own))
    log = one.call_log(patience_s=20)
    log.append(begin_line(f"{own.token}/1", 3, 1.0, ALICE))
    outbox = Outbox(two, host="here")
    own.close()  # as a cut connection frees the lock
    assert 1 == len(read_processes(two).reports)
    first = outbox.batch(9, datetime.now(UTC))
    assert (ALICE,) == first.running
    outbox.delivered(first)
    monkeypatch.setattr(processes, "SILENT_S", 0.0)
    found = read_processes(two)
    assert () == found.reports
    assert 1 == len(found.lost)
    outbox.delivered(outbox.batch(9, datetime.now(UTC)))
    batch = outbox.batch(9, datetime.now(UTC))
    assert () == batch.running
    outbox.close()
    log.close()


@IN_POSTGRES
def test_counts_of_a_process_that_was_taken_for_dead_are_not_counted_twice(
    another: Another, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = another(), another()
    own = OwnFile(one)
    own.write(status(own, reads={"mem0": 3}, calls={"get": {TODAY: 2}}, unnoted=1))
    own._lock.close()  # as a cut connection frees the lock
    with monkeypatch.context() as silent:
        silent.setattr(processes, "SILENT_S", 0.0)
        fold(two)
    assert {"mem0": 3} == read_processes(two).reads
    own.write(status(own, reads={"mem0": 5, "spectron": 1}, calls={"get": {TODAY: 3}}, unnoted=1))
    found = read_processes(two)
    assert {"mem0": 5, "spectron": 1} == found.reads
    assert {"get": 3} == found.calls
    assert 1 == found.unnoted
    assert 1 == len(found.reports)
    own.close()


@IN_POSTGRES
def test_a_process_takes_its_lock_again_when_its_connection_was_cut(another: Another, place: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    own = OwnFile(another())
    location: PostgresLocation = parse_location(place)
    with psycopg.connect(location.url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND usename = current_user AND application_name LIKE 'spectron-migrate%'"
        )
    state = PostgresState(location)
    name = f"processes/{own.token.partition(':')[0]}.lock"
    assert not state.is_locked(name)
    own.write(status(own))
    assert state.is_locked(name)
    state.close()
