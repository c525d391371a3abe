"""The log of calls in Postgres: what is not acknowledged in time is there before later calls, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.database.session_locks import lock_key
from spectron_migrate.state import postgres_calls
from spectron_migrate.state.postgres_calls import BoundedThread, PostgresCallLog
from spectron_migrate.state.unreachable import StateUnreachable

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def location(postgres_state: str) -> PostgresLocation:
    """The place of a state."""
    return parse_location(postgres_state)


@pytest.fixture
def log(location: PostgresLocation) -> Iterator[PostgresCallLog]:
    """The log, as an application that is patient enough for a loaded machine writes it."""
    log = PostgresCallLog(location, budget_s=20)
    assert 1 == log.size
    yield log
    log.close()


def lines(log: PostgresCallLog) -> list[str]:
    return [line.decode() for line, _ in log.lines_from(0)]


def test_a_line_that_was_given_up_never_appears_behind_a_later_one(
    log: PostgresCallLog, location: PostgresLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_calls, "AWAY_S", 0.0)
    log.append("end a")
    log._budget_s = 0.05
    with psycopg.connect(location.url) as other:  # appends now, and takes its time
        other.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(location.schema, "call_line"),))
        with pytest.raises(StateUnreachable, match="within 50 ms"):
            log.append("end b")
    log._budget_s = 20
    log.append("end c")
    assert ["end a", "end c"] == lines(log)


def test_a_line_is_one_question_to_the_database(log: PostgresCallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectron_migrate.database.postgres import PostgresDatabase, PostgresResult

    log.append("begin a")  # it connects
    asked: list[str] = []
    send = PostgresDatabase._send

    def counted(database: PostgresDatabase, sql: str, values: Sequence[Any]) -> PostgresResult:
        if threading.current_thread().name == "spectron-state":  # others may look at states of their own
            asked.append(sql)
        return send(database, sql, values)

    monkeypatch.setattr(PostgresDatabase, "_send", counted)
    log.append("end a")
    assert 1 == len(asked)
    assert ["begin a", "end a"] == lines(log)


def test_an_application_does_not_wait_again_for_a_database_that_did_not_answer() -> None:
    thread, release, asked = BoundedThread(), threading.Event(), []
    with pytest.raises(StateUnreachable, match="within 10 ms"):
        thread.run(release.wait, 0.01)
    with pytest.raises(StateUnreachable, match="a moment ago"):
        thread.run(lambda: asked.append(1), 1000)
    release.set()
    assert [] == asked
    thread.close()


def test_what_was_given_up_before_it_began_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_calls, "AWAY_S", 0.0)
    thread, release, asked = BoundedThread(), threading.Event(), []
    for ask in (release.wait, lambda: asked.append(1)):
        with pytest.raises(StateUnreachable):
            thread.run(ask, 0.01)
    release.set()
    thread.run(lambda: asked.append(2), 60)
    assert [2] == asked
    thread.close()


def test_nobody_waits_for_what_is_closed() -> None:
    thread, asked = BoundedThread(), []
    thread.run(lambda: asked.append(1), 60)
    thread.close()
    with pytest.raises(StateUnreachable, match="is closed"):
        thread.run(lambda: asked.append(2), 1000)
    thread.close()
    assert [1] == asked


def test_appends_of_many_hosts_are_read_without_a_gap(location: PostgresLocation, log: PostgresCallLog) -> None:
    logs = [PostgresCallLog(location, budget_s=20) for _ in range(4)]
    done = threading.Event()

    def write(number: int) -> None:
        for each in range(40):
            logs[number].append(f"end {number}/{each} .")

    def read() -> list[str]:
        seen: list[str] = []
        position = 0
        while True:
            was_done = done.is_set()
            found = log.lines_from(position)
            seen += [line.decode() for line, _ in found]
            position = found[-1][1] if found else position
            if was_done and not found:
                return seen

    with ThreadPoolExecutor(5) as threads:
        reader = threads.submit(read)
        list(threads.map(write, range(4)))
        done.set()
        seen = reader.result()
    assert 160 == len(set(seen)) == len(seen)
    for number in range(4):
        assert [f"end {number}/{each} ." for each in range(40)] == [
            line for line in seen if line.startswith(f"end {number}/")
        ]
    for each in logs:
        each.close()


def test_a_line_is_appended_once_when_the_connection_is_cut(location: PostgresLocation, log: PostgresCallLog) -> None:
    log.append("end a")
    with psycopg.connect(location.url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND usename = current_user AND application_name LIKE 'spectron-migrate%'"
        )
    log.append("end b")
    assert ["end a", "end b"] == lines(log)


def test_lines_are_kept_until_every_reader_has_seen_them(log: PostgresCallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("end a", "end b", "end c"):
        log.append(each)
    end = log.lines_from(0)[1][1]
    log.release(end)
    assert ["end a", "end b", "end c"] == lines(log)
    monkeypatch.setattr(postgres_calls, "KEPT_S", 0.0)
    log.release(end)
    assert ["end c"] == lines(log)
    assert end == log.first_line()
