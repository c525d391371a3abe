"""A real Postgres with pgvector is read by SQL: whole, in one snapshot, and without a change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_dump
from spectron_migrate.errors import InputError, KeyRefused, Unreachable
from spectron_migrate.mem0.open import open_oss, source_info
from spectron_migrate.mem0.stores import pgvector
from spectron_migrate.mem0.stores.config_spellings import python_config
from spectron_migrate.mem0.stores.listed import ListedReader
from spectron_migrate.migration.export import run_export
from spectron_migrate.records import Filters, Memory, Skipped
from spectron_migrate.reporter import NullReporter
from tests.mem0.conftest import NOW, App
from tests.mem0.qdrant_points import uuid

pytestmark = pytest.mark.slow

Make = Callable[[list[tuple[str, Any]]], dict[str, Any]]


def config(address: str, table: str, **more: Any) -> dict[str, Any]:
    store = {"provider": "pgvector", "config": {"connection_string": address, "collection_name": table, **more}}
    return {"vector_store": store, "history_db_path": "/nowhere/history.db"}


@pytest.fixture
def table(postgres: str, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a table as Mem0 makes it, named after the test."""
    import psycopg

    name = request.node.originalname[5:50]
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")

        def make(rows: list[tuple[str, Any]]) -> dict[str, Any]:
            db.execute(f'CREATE TABLE "{name}" (id UUID PRIMARY KEY, vector vector(2), payload JSONB)')
            with db.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO \"{name}\" VALUES (%s, '[1,2]', %s)",
                    [(row_id, None if payload is None else json.dumps(payload)) for row_id, payload in rows],
                )
            return config(postgres, name)

        yield make
        db.execute(f'DROP TABLE IF EXISTS "{name}"')


def read(settings: dict[str, Any]) -> list[Memory | Skipped]:
    with open_oss(settings, now=NOW) as reader:
        found = list(reader.rows())
        assert 0 == reader.missing()
        assert len(found) == reader.native_count()
        return found


def texts(rows: list[Memory | Skipped]) -> dict[str, str]:
    return {row.id: row.memory for row in rows if isinstance(row, Memory)}


@pytest.mark.parametrize("count", [0, 1, 5, 6, 23])
def test_every_row_is_read_page_by_page(table: Make, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(pgvector, "_PAGE", 5)

    found = read(table([(uuid(number), {"data": f"note {number}"}) for number in range(count)]))

    assert {uuid(number): f"note {number}" for number in range(count)} == texts(found)


def test_pages_follow_the_order_of_the_key_and_not_that_of_its_text(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ORDER BY a name that is a column of the result too means that one: all rows would be sorted for each page."""
    import psycopg

    monkeypatch.setattr(pgvector, "_PAGE", 5)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE TABLE numbered (id BIGINT PRIMARY KEY, payload JSONB)")
        db.execute("""INSERT INTO numbered SELECT n, '{"data": "note"}' FROM generate_series(1, 23) n""")
        try:
            found = read(config(postgres, "numbered"))
        finally:
            db.execute("DROP TABLE numbered")

    assert [str(number) for number in range(1, 24)] == [row.id for row in found]


def test_unusual_payloads_are_read_or_skipped_with_a_reason(table: Make) -> None:
    found = read(
        table(
            [
                (uuid(1), {"data": "tea", "user_id": 42, "created_at": 1735787045, "nested": {"a": [1, None]}}),
                (uuid(2), None),
                (uuid(3), ["no object"]),
                (uuid(4), {"user_id": "alice"}),
            ]
        )
    )

    [first, *rest] = found
    assert isinstance(first, Memory)
    assert "42" == first.user_id
    assert {"nested": {"a": [1, None]}} == dict(first.metadata)
    assert [Skipped(uuid(number), "no text field") for number in (2, 3, 4)] == rest


def test_the_snapshot_is_one_while_an_application_writes(
    table: Make, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.setattr(pgvector, "_PAGE", 5)
    settings = table([(uuid(number), {"data": f"note {number}"}) for number in range(20)])
    name = settings["vector_store"]["config"]["collection_name"]
    found: list[Memory | Skipped] = []
    with open_oss(settings, now=NOW) as reader, psycopg.connect(postgres, autocommit=True) as writer:
        for row in reader.rows():
            found.append(row)
            writer.execute(f'DELETE FROM "{name}" WHERE id = %s', (uuid(19),))
            values = (uuid(100 + len(found)), json.dumps({"data": "late"}))
            writer.execute(f"INSERT INTO \"{name}\" VALUES (%s, '[1,2]', %s)", values)
        assert 0 == reader.missing()
        assert 39 == reader.native_count()

    assert {uuid(number): f"note {number}" for number in range(20)} == texts(found)


def test_a_store_that_mem0_itself_wrote_is_exported_and_unchanged(
    postgres: str, mem0_app: Callable[..., App], tmp_path: Path
) -> None:
    import psycopg

    app = mem0_app("pg", provider="pgvector", path=None, connection_string=postgres, collection_name="by_mem0")
    [first] = app("add", "likes tea", {"user_id": "alice", "metadata": {"topic": "drinks"}})
    [second] = app("add", "has a cat", {"user_id": "bob", "agent_id": "bot"})
    app("update", first, "likes coffee")
    with psycopg.connect(postgres, autocommit=True) as db:
        objects = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        before = db.execute(objects).fetchone()
        with open_oss(app.config, now=NOW) as reader:
            summary = run_export(
                reader,
                tmp_path / "dump",
                filters=Filters(),
                since=None,
                keep_history=False,
                reporter=NullReporter(),
                clock=lambda: datetime.now(UTC),
            )
        assert before == db.execute(objects).fetchone()

    assert summary.complete
    assert 2 == summary.memories
    assert 2 == summary.native_count
    found = {row.id: row for row in open_dump(tmp_path / "dump").memories()}
    assert {first: "likes coffee", second: "has a cat"} == {memory_id: row.memory for memory_id, row in found.items()}
    assert {"topic": "drinks"} == found[first].metadata
    assert "history" == found[first].text_at_source


def test_a_user_who_may_only_read_is_enough(table: Make, postgres: str) -> None:
    import psycopg

    settings = table([(uuid(1), {"data": "tea"})])
    name = settings["vector_store"]["config"]["collection_name"]
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
        db.execute(f'GRANT SELECT ON "{name}" TO reader')
        try:
            as_reader = config(postgres.replace("//postgres:@", "//reader:secret@"), name)
            found = read(as_reader)
            for who, may_write in ((as_reader, False), (settings, True)):
                with open_oss(who, now=NOW) as reader:
                    assert isinstance(reader, ListedReader)
                    assert may_write == reader.may_write()
        finally:
            db.execute(f'REVOKE ALL ON "{name}" FROM reader')
            db.execute("DROP ROLE reader")
    assert {uuid(1): "tea"} == texts(found)


def test_the_session_cannot_write(table: Make) -> None:
    import psycopg

    settings = table([(uuid(1), {"data": "tea"})])
    with open_oss(settings, now=NOW) as reader:
        assert isinstance(reader, ListedReader)
        store = reader.store
        assert isinstance(store, pgvector.PgVector)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            store._db.execute(store._sql("DELETE FROM {table}"))


def test_an_unknown_table_is_refused_with_those_that_exist_and_not_created(table: Make, postgres: str) -> None:
    import psycopg

    there = table([])["vector_store"]["config"]["collection_name"]

    with pytest.raises(InputError) as error:
        read(config(postgres, "memorise"))

    assert "there is no table memorise in pgvector:postgresql://" in error.value.message
    assert there in (error.value.hint or "")
    with psycopg.connect(postgres) as db:
        assert (None,) == db.execute("SELECT to_regclass('memorise')").fetchone()


def test_the_tables_of_supabase_are_read_the_same_way(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector; CREATE SCHEMA vecs")
        db.execute("CREATE TABLE vecs.memories (id VARCHAR PRIMARY KEY, vec vector(2), metadata JSONB)")
        db.execute(
            "INSERT INTO vecs.memories SELECT 'm' || n, '[1,2]', '{\"data\": \"tea\"}' FROM generate_series(1, 2500) n"
        )
        settings = config(postgres, "memories")
        settings["vector_store"]["provider"] = "supabase"
        found = read(settings)
        db.execute("DROP SCHEMA vecs CASCADE")
    assert 2500 == len(texts(found))


def test_a_table_of_supabase_that_typescript_writes_is_read_without_the_stamps_of_the_store(postgres: str) -> None:
    import psycopg

    stamps = {"created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-02-01T00:00:00.000Z"}
    payload = {"data": "tea", "createdAt": "2025-01-02T03:04:05.678Z", "hash": "h", "user_id": "dana", "topic": "x"}
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE TABLE household (id TEXT PRIMARY KEY, embedding TEXT, metadata JSONB, created_at TEXT)")
        db.execute("INSERT INTO household VALUES ('m1', '', %s)", (json.dumps({**payload, **stamps}),))
        store = {"provider": "supabase", "config": {"connectionString": postgres, "tableName": "household"}}
        [found] = read(python_config({"vectorStore": store}, "mem0.json"))
        db.execute("DROP TABLE household")

    assert isinstance(found, Memory)
    assert ("dana", "tea", "2025-01-02T03:04:05.678000Z", None) == (
        *(found.user_id, found.memory, found.created_at, found.updated_at),
    )
    assert {"topic": "x"} == found.metadata


def test_a_table_of_pgvector_that_typescript_writes_is_read_with_its_own_times(postgres: str) -> None:
    import psycopg

    payload = {"data": "tea", "createdAt": "2025-01-02T03:04:05.678Z", "user_id": "dana", "created_at": "2019"}
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE TABLE memories (id UUID PRIMARY KEY, vector TEXT, payload JSONB)")
        db.execute("INSERT INTO memories VALUES (%s, '', %s)", (uuid(1), json.dumps(payload)))
        store = {"provider": "pgvector", "config": {"connectionString": postgres}}
        [found] = read(python_config({"vectorStore": store}, "mem0.json"))
        db.execute("DROP TABLE memories")

    assert isinstance(found, Memory)
    assert "2025-01-02T03:04:05.678000Z" == found.created_at
    assert {"created_at": "2019"} == found.metadata


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/postgres", Unreachable),
        ("not an address", (InputError, Unreachable)),
    ],
)
def test_an_address_without_an_answer_is_reported_without_its_password(address: str, expected: Any) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(expected) as error:
        open_oss(config(address, "memories"), now=NOW)

    assert "s3cret" not in error.value.message + (error.value.hint or "")


def test_a_wrong_user_is_reported(postgres: str) -> None:
    with pytest.raises((KeyRefused, Unreachable)) as error:
        open_oss(config(postgres.replace("//postgres:@", "//nobody:s3cret@"), "memories"), now=NOW)

    assert "s3cret" not in error.value.message


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(InputError) as error:
        open_oss(config("postgresql://127.0.0.1/x", "memories"), now=NOW)

    assert "pip install 'spectron-migrate[pgvector]'" == error.value.hint


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"user": "me", "password": "s3cret", "host": "db", "port": 5433, "dbname": "app"}, "db:5433/app"),
        ({"connection_string": "postgresql://me:s3cret@db/app?sslmode=require"}, "db:5432/app"),
        ({"connection_string": "postgresql://me:s3cret@/app?host=/run/pg"}, "/run/pg:5432/app"),
        ({"connection_string": "host=db user=me password=s3cret dbname=app"}, "db:5432/app"),
    ],
)
def test_the_source_is_named_without_credentials(settings: dict[str, Any], place: str) -> None:
    store = {"provider": "pgvector", "config": settings}

    assert f"pgvector:postgresql://{place}:mem0" == source_info({"oss": {"config": {"vector_store": store}}}).place
