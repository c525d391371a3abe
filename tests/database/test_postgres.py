"""The connection to Postgres, on a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from spectron_migrate.database.location import PostgresLocation, parse_location
from spectron_migrate.database.opening import connect, connect_writer, reconnect
from spectron_migrate.database.pages import pages
from spectron_migrate.database.postgres import PostgresDatabase
from spectron_migrate.database.session_locks import check_session, lock_key, try_lock, unlock
from spectron_migrate.database.tables import drop_schema, format_of, make_schema, make_tables
from spectron_migrate.errors import InputError, KeyRefused, Unreachable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
TABLES = """
CREATE TABLE note(
  id INTEGER PRIMARY KEY,  -- given by the engine; else ours
  word TEXT NOT NULL UNIQUE, n INTEGER
);
CREATE INDEX note_n ON note(n) WHERE n > 0;
"""


@pytest.fixture
def database(postgres_state: str) -> Iterator[PostgresDatabase]:
    with closing(connect_writer(parse_location(postgres_state))) as found:
        make_tables(found, "notes", TABLES, 1)
        yield found


def test_rows_are_read_as_those_of_sqlite(database: PostgresDatabase) -> None:
    with database.transaction() as db:
        number = db.execute("INSERT INTO note(word, n) VALUES (?, ?) RETURNING id", ("what?", 2)).fetchone()[0]
        changed = db.execute("UPDATE note SET n = n + ? WHERE word = 'what?'", (1,))
        assert 1 == changed.rowcount
    row = database.execute("SELECT id, word, n, n AS again FROM note").fetchone()
    assert {"id": number, "word": "what?", "n": 3, "again": 3} == dict(row)
    assert (number, "what?", 3, 3) == tuple(row)
    assert database.execute("SELECT 1 FROM note WHERE n > 9").fetchone() is None


def test_a_large_result_comes_in_pages_and_other_statements_run_in_between(database: PostgresDatabase) -> None:
    database.executemany("INSERT INTO note(word, n) VALUES (?, ?)", [(f"word {n}", n) for n in range(25)])
    found = []
    with database.transaction() as db:
        for page in pages(db, "SELECT n FROM note WHERE n >= ? ORDER BY n", (5,), size=10):
            found.append([row["n"] for row in page])
            db.execute("DELETE FROM note WHERE n = ?", (24,))
    assert [list(range(5, 15)), list(range(15, 25))] == found
    again = [len(page) for page in pages(database, "SELECT n FROM note", size=20)]
    assert [20, 4] == again
    assert 0 == database.execute("SELECT count(*) FROM pg_cursors").fetchone()[0]


@pytest.mark.parametrize("text", ["a\x00b", "\x01", "\x01\x02\x00\x01\x01", "日本語 🎈", ""])
def test_every_text_comes_back_as_it_was(database: PostgresDatabase, text: str) -> None:
    database.execute("INSERT INTO note(word) VALUES (?)", (text,))
    assert text == database.execute("SELECT word FROM note WHERE word = ?", (text,)).fetchone()["word"]


def test_texts_are_ordered_by_their_bytes(database: PostgresDatabase) -> None:
    words = ["B", "a", "_", "ä", "Z", "10", "9"]
    database.executemany("INSERT INTO note(word) VALUES (?)", [(word,) for word in words])
    rows = database.execute("SELECT word FROM note ORDER BY word").fetchall()
    assert sorted(words, key=str.encode) == [row["word"] for row in rows]


def test_a_failed_transaction_leaves_nothing_and_the_connection_usable(database: PostgresDatabase) -> None:
    with pytest.raises(Exception, match=r"note_word_key"), database.transaction() as db:  # noqa: PT012
        db.execute("INSERT INTO note(word) VALUES ('one')")
        db.execute("INSERT INTO note(word) VALUES ('one')")
    with pytest.raises(ZeroDivisionError), database.transaction() as db:  # noqa: PT012
        db.execute("INSERT INTO note(word) VALUES ('two')")
        raise ZeroDivisionError
    assert 0 == database.execute("SELECT count(*) FROM note").fetchone()[0]


def test_commits_are_counted_and_a_database_that_forgot_some_is_noticed(database: PostgresDatabase) -> None:
    before = database.commits
    with database.transaction() as db:
        db.execute("INSERT INTO note(word) VALUES ('one')")
    assert before + 1 == database.commits
    again = reconnect(database)
    assert before + 1 == again.commits
    again.execute("UPDATE commit_count SET commits = commits - 1")  # what a restore from an older backup does
    with pytest.raises(InputError, match=r"has forgotten 1 commit of this process.*--adopt"):
        reconnect(again)
    again.close()


def wait_for(database: PostgresDatabase, name: str) -> None:
    """Take a lock, waiting for it: a server's process ends a moment after its connection."""
    database.execute("SET lock_timeout = '30s'")
    database.execute("SELECT pg_advisory_lock(?)", (lock_key(database.location.schema, name),)).fetchone()


def test_a_lock_ends_with_its_connection(database: PostgresDatabase) -> None:
    other = connect(database.location)
    assert try_lock(other, "lane a")
    assert not try_lock(database, "lane a")
    assert try_lock(database, "lane b")
    other.close()
    wait_for(database, "lane a")
    unlock(database, "lane a")
    with closing(connect(database.location)) as third:
        assert try_lock(third, "lane a")
        assert not try_lock(third, "lane b")


def test_two_processes_make_the_tables_once(database: PostgresDatabase) -> None:
    with closing(connect_writer(database.location)) as other:
        make_tables(other, "notes", TABLES, 1)
    assert 1 == format_of(database, "notes")
    with pytest.raises(InputError, match=r"the notes in .* has format 1, this version reads format 2"):
        make_tables(database, "notes", TABLES, 2)


def test_nobody_makes_tables_between_the_last_look_at_a_schema_and_its_end(
    postgres_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = parse_location(postgres_state)
    stop = PostgresDatabase.count_commits
    with closing(connect_writer(location)) as first, closing(connect(location)) as other:
        make_schema(first)
        free = []

        def look(database: PostgresDatabase, holder: str | None) -> None:
            free.append(try_lock(other, "tables"))
            stop(database, holder)

        monkeypatch.setattr(PostgresDatabase, "count_commits", look)
        drop_schema(first)
        assert [False] == free
        assert other.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (location.schema,)).fetchone() is None


def test_a_schema_of_something_else_is_refused(database: PostgresDatabase) -> None:
    database.execute("DROP TABLE format")
    with (
        closing(connect_writer(database.location)) as other,
        pytest.raises(InputError, match=r"holds tables of something else: commit_count, note"),
    ):
        make_tables(other, "notes", TABLES, 1)


def test_a_user_who_may_not_make_the_schema_is_told_what_the_owner_does(postgres: str, postgres_state: str) -> None:
    with closing(connect(parse_location(postgres))) as owner:
        owner.execute("REVOKE CREATE ON DATABASE postgres FROM migrator")
    refused = r"lacks a right: permission denied .*CREATE SCHEMA state_.* AUTHORIZATION"
    with closing(connect_writer(parse_location(postgres_state))) as user, pytest.raises(KeyRefused, match=refused):
        make_schema(user)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/postgres?", "/nothing?"), 'database "nothing" does not exist'),
        (("migrator@", "nobody@"), 'role "nobody" does not exist'),
        (("/postgres?", "/postgres?colour=blue&"), 'invalid URI query parameter: "colour"'),
    ],
)
def test_what_is_wrong_with_a_url_is_said(postgres_state: str, change: tuple[str, str], said: str) -> None:
    with pytest.raises((InputError, KeyRefused), match=said):
        connect(parse_location(postgres_state.replace(*change)))


def test_a_server_that_is_away_is_not_reachable() -> None:
    with pytest.raises(Unreachable, match=r"postgresql://127.0.0.1:9/app does not answer"):
        connect(parse_location("postgresql://127.0.0.1:9/app"))


def test_a_read_only_server_is_refused(database: PostgresDatabase) -> None:
    database.execute("SET default_transaction_read_only = on")
    with pytest.raises(InputError, match=r"is read-only: .*name the primary"), database.transaction() as db:
        db.execute("INSERT INTO note(word) VALUES ('one')")


def test_a_read_only_server_is_refused_before_anything_is_read_there(database: PostgresDatabase) -> None:
    """A replica may lag: whoever read the routing there would go on as before a cutover was complete."""
    location = database.location
    replica = replace(location, url=f"{location.url}&options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(InputError, match=r"is read-only"):
        connect_writer(replica)


def test_a_connection_that_the_server_ended_is_noticed(database: PostgresDatabase, postgres: str) -> None:
    with closing(connect(parse_location(postgres))) as owner:
        owner.execute("SELECT pg_terminate_backend(?::int)", (database.driver_pid,)).fetchone()
    with pytest.raises(Unreachable, match=r"does not answer"):
        database.execute("SELECT 1")
    assert database.is_lost


def test_a_transaction_that_the_server_ended_for_its_time_is_a_lost_connection(database: PostgresDatabase) -> None:
    limit = "transaction_timeout"
    if not database.execute("SELECT 1 FROM pg_settings WHERE name = ?", (limit,)).fetchall():
        pytest.skip(f"this Postgres has no {limit}")
    with pytest.raises(Unreachable, match=f"does not answer: .*{limit.replace('_', ' ')}"):  # noqa: SIM117, PT012
        with database.transaction() as db:
            db.execute(f"SET LOCAL {limit} = '50ms'")
            db.execute("SELECT pg_sleep(30)").fetchone()
    assert database.is_lost


def test_a_transaction_that_stood_still_for_too_long_is_a_lost_connection(
    database: PostgresDatabase, postgres: str
) -> None:
    database.execute("SET idle_in_transaction_session_timeout = '50ms'")
    database.execute("BEGIN")
    with closing(connect(parse_location(postgres))) as owner:
        pid = database.driver_pid
        wait_until(lambda: not owner.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ?", (pid,)).fetchall())
    with pytest.raises(Unreachable, match=r"does not answer: .*idle-in-transaction timeout"):
        database.execute("SELECT 1")
    assert database.is_lost


class Pooled:
    """Connections of a pooler: each is served by a process of the pool, which has few."""

    def __init__(self, *pids: int) -> None:
        self.location = PostgresLocation("postgresql://pooler/app", "s")
        self.driver_pid = 77
        self.pids = list(pids)

    def execute(self, sql: str) -> Pooled:
        assert "pg_backend_pid" in sql
        return self

    def fetchone(self) -> tuple[int]:
        return (self.pids.pop(0),)

    def transaction(self) -> closing[Pooled]:
        return closing(self)

    def close(self) -> None:
        pass


def test_a_pooler_in_transaction_mode_is_refused() -> None:
    first, second = Pooled(501, 502), Pooled(501)  # the second takes the process that served the first
    with pytest.raises(InputError, match=r"is a pooler in transaction mode"):
        check_session(first, lambda: second)  # type: ignore[arg-type, return-value]


def test_a_pooler_in_session_mode_is_used() -> None:
    first, second = Pooled(501, 501), Pooled(502)
    check_session(first, lambda: second)  # type: ignore[arg-type, return-value]
    assert [] == first.pids  # it was asked twice


def test_without_psycopg_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "spectron_migrate.database.postgres")
    location = replace(parse_location("postgresql://db/app"), schema="s")
    with pytest.raises(InputError, match=r"needs psycopg.*pip install 'spectron-migrate\[postgres\]'"):
        connect(location)
