"""A table of Oracle, on a stand-in for its driver: a snapshot is read, and nothing but questions is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from spectron_migrate.errors import InputError, KeyRefused, Unreachable
from spectron_migrate.mem0.normalise import normalise
from spectron_migrate.mem0.open import open_oss, source_info
from spectron_migrate.records import Memory
from tests.mem0.conftest import NOW
from tests.mem0.rows import Row, odd_payloads

WHERE = {"user": "app", "password": "s3cret", "dsn": "db.example:1521/FREEPDB1"}


class Error(Exception):
    """As the driver's: its first argument has the code."""


def error(code: str) -> Error:
    return Error(SimpleNamespace(full_code=code, __str__=lambda self: code))


class Oracle:
    """The driver and the database: tables of two owners; a read-only transaction sees what was there when it began."""

    Error = Error

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], dict[str, Row]] = {("APP", "mem0"): {}, ("TEAM", "mem0"): {}}
        self.snapshot: dict[tuple[str, str], dict[str, Row]] | None = None
        self.asked: list[str] = []
        self.fails_after: int | None = None
        self.password = "s3cret"
        self.privileges: list[str] = ["SELECT"]

    def connect(self, **how: Any) -> Oracle:
        if how["password"] != self.password:
            raise error("ORA-01017")
        return self

    def rollback(self) -> None:
        self.snapshot = None

    def close(self) -> None:
        self.asked.append("closed")

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        yield Cursor(self)


class Cursor:
    arraysize = 100

    def __init__(self, db: Oracle) -> None:
        self.db = db
        self.rows: Iterator[Any] = iter(())

    def execute(self, sql: str, values: list[Any] | None = None) -> None:
        self.db.asked.append(sql)
        tables = self.db.tables if self.db.snapshot is None else self.db.snapshot
        if sql == "SET TRANSACTION READ ONLY":
            self.db.snapshot = {name: dict(rows) for name, rows in self.db.tables.items()}
        elif "sys_context" in sql:
            self.rows = iter([("APP",)])
        elif "all_tab_columns" in sql:
            self.rows = iter(list(tables))
        elif "user_tab_privs" in sql:
            self.rows = iter([(one,) for one in self.db.privileges])
        else:
            rows = tables["TEAM" if '"TEAM".' in sql else "APP", "mem0"]
            self.rows = iter([(len(rows),)] if "count(*)" in sql else list(rows.items()))

    def fetchmany(self, size: int) -> list[Any]:
        if self.db.fails_after is not None:
            self.db.fails_after -= 1
            if self.db.fails_after < 0:
                raise error("DPY-4011")
        return [row for _, row in zip(range(size), self.rows, strict=False)]

    def fetchall(self) -> list[Any]:
        return list(self.rows)


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    driver = Oracle()
    monkeypatch.setitem(sys.modules, "oracledb", driver)  # type: ignore[arg-type]
    return driver


def config(collection: str = "mem0", **more: Any) -> dict[str, Any]:
    settings = {"connection_params": {**WHERE, **more}, "collection_name": collection}
    return {
        "vector_store": {"provider": "oracledb", "config": settings},
        "history_db_path": "/nowhere/history.db",
    }


def test_every_row_is_given_as_mem0_wrote_it_and_only_questions_are_asked(oracle: Oracle) -> None:
    rows = odd_payloads()
    oracle.tables["APP", "mem0"] = {
        one: {**row, "seq": Decimal(3), "part": Decimal("0.5")} for one, row in rows.items()
    }

    with open_oss(config(), now=NOW) as reader:
        found = {row.id: row for row in reader.rows()}
        assert 0 == reader.missing()

    given = {one: {"id": one, "payload": {**row, "seq": 3, "part": 0.5}} for one, row in rows.items()}
    assert {one: normalise(row, now=NOW) for one, row in given.items()} == found
    assert {"SELECT", "SET", "closed"} == {sql.partition(" ")[0] for sql in oracle.asked}


@pytest.mark.parametrize("collection", ["TEAM.mem0", '"TEAM"."mem0"'])
def test_a_table_of_another_owner_is_read(oracle: Oracle, collection: str) -> None:
    oracle.tables["TEAM", "mem0"] = {"m1": {"data": "likes tea", "user_id": "dana"}}

    with open_oss(config(collection), now=NOW) as reader:
        assert ["m1"] == [row.id for row in reader.rows()]
        assert reader.may_write() is False
        oracle.privileges = ["SELECT", "UPDATE"]
        assert reader.may_write() is True


def test_what_an_application_does_meanwhile_is_left_to_the_next_export(oracle: Oracle) -> None:
    table = oracle.tables["APP", "mem0"]
    table.update({f"m{one}": {"data": f"note {one}", "user_id": "dana"} for one in range(2500)})

    with open_oss(config(), now=NOW) as reader:
        rows = reader.rows()
        first = next(rows)
        del table["m7"]
        table["late"] = {"data": "late", "user_id": "dana"}
        found = [first, *rows]
        assert 0 == reader.missing()

    assert {f"m{one}" for one in range(2500)} == {row.id for row in found}


def test_a_connection_that_ends_half_way_is_no_end_of_the_rows(oracle: Oracle) -> None:
    oracle.tables["APP", "mem0"] = {f"m{one}": {"data": "note", "user_id": "dana"} for one in range(2500)}
    oracle.fails_after = 1

    with open_oss(config(), now=NOW) as reader, pytest.raises(Unreachable, match=r"db\.example"):
        list(reader.rows())


def test_bad_input_is_one_sentence(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no table MEM0") as unknown:
        open_oss(config("MEM0"), now=NOW)
    assert "mem0, TEAM.mem0" in (unknown.value.hint or "") or "TEAM.mem0, mem0" in (unknown.value.hint or "")
    with pytest.raises(KeyRefused, match="refuses this user"):
        open_oss(config(password="wrong"), now=NOW)
    with pytest.raises(InputError, match="connection_params"):
        open_oss({"vector_store": {"provider": "oracledb", "config": {}}}, now=NOW)
    monkeypatch.setitem(sys.modules, "oracledb", None)
    with pytest.raises(InputError, match="needs oracledb") as missing:
        open_oss(config(), now=NOW)
    assert "pip install 'spectron-migrate[oracle]'" == missing.value.hint


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({}, "app@db.example:1521/FREEPDB1"),
        ({"dsn": "app/s3cret@db.example/FREE", "user": None}, "app@db.example/FREE"),
        ({"dsn": None, "host": "db", "service_name": "FREE"}, "app@db:1521/FREE"),
    ],
)
def test_a_database_is_named_by_user_and_address_without_the_password(more: dict[str, Any], place: str) -> None:
    info = source_info({"oss": {"config": config(**more)}})

    assert f"oss:oracledb:{place}:mem0" == info.identity
    assert "s3cret" not in info.identity


def test_the_password_may_come_from_the_environment(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_PASSWORD_FOR_TEST", "s3cret")
    with open_oss(config(password="${ORACLE_PASSWORD_FOR_TEST}"), now=NOW) as reader:
        assert [] == [row for row in reader.rows() if isinstance(row, Memory)]
