"""Oracle's own driver, without a database: it takes the calls of the reader, and its refusals are one sentence."""

from __future__ import annotations

import inspect
from typing import Any

import oracledb
import pytest

from spectron_migrate.errors import InputError, MigrateError, Unreachable
from spectron_migrate.mem0.open import open_oss, source_info
from tests.mem0.conftest import NOW
from tests.support.tcp import free_port


def config(**parameters: Any) -> dict[str, Any]:
    settings = {"connection_params": {"user": "app", "password": "s3cret", **parameters}, "collection_name": "mem0"}
    return {"vector_store": {"provider": "oracledb", "config": settings}, "history_db_path": "/nowhere/history.db"}


def refused(**parameters: Any) -> MigrateError:
    """The error of a configuration that cannot be opened; it never contains the password."""
    with pytest.raises(MigrateError) as raised:
        open_oss(config(**parameters), now=NOW)
    assert "s3cret" not in f"{raised.value} {raised.value.hint}"
    return raised.value


def test_the_driver_takes_every_call_that_the_reader_makes() -> None:
    """The arguments of `Oracle`, bound to the signatures of the driver."""
    connection, cursor = oracledb.Connection, oracledb.Cursor

    inspect.signature(oracledb.connect).bind(user="app", password="s3cret", dsn="db/FREE")
    inspect.signature(connection.cursor).bind(None)
    inspect.signature(connection.rollback).bind(None)
    inspect.signature(connection.close).bind(None)
    inspect.signature(cursor.execute).bind(None, "SELECT :1, :2 FROM dual", ["APP", "mem0"])
    inspect.signature(cursor.fetchmany).bind(None, 1000)
    inspect.signature(cursor.fetchall).bind(None)
    assert isinstance(inspect.getattr_static(cursor, "arraysize"), property)
    assert all(hasattr(one, "__enter__") for one in (connection, cursor))
    assert issubclass(oracledb.DatabaseError, oracledb.Error)


@pytest.mark.parametrize(
    ("dsn", "parts"),
    [
        ("db.example:1522/FREEPDB1", ("db.example", 1522, "FREEPDB1")),
        ("//db.example/FREEPDB1", ("db.example", 1521, "FREEPDB1")),
        ("tcps://db.example:2484/FREEPDB1", ("db.example", 2484, "FREEPDB1")),
        (
            "(DESCRIPTION=(ADDRESS=(PROTOCOL=TCP)(HOST=db.example)(PORT=1522))(CONNECT_DATA=(SERVICE_NAME=FREEPDB1)))",
            ("db.example", 1522, "FREEPDB1"),
        ),
    ],
)
def test_the_driver_reads_the_addresses_that_name_a_source(dsn: str, parts: tuple[str, int, str]) -> None:
    read = oracledb.ConnectParams()
    read.parse_connect_string(dsn)

    assert parts == (read.host, read.port, read.service_name)
    assert f"oss:oracledb:app@{dsn}:mem0" == source_info({"oss": {"config": config(dsn=dsn)}}).identity


@pytest.mark.parametrize("more", [{}, {"min": 1, "max": 4, "increment": 1, "ping_interval": 60}])
def test_a_server_that_is_not_there_is_unreachable_also_with_the_parameters_of_mem0_s_pool(
    more: dict[str, Any],
) -> None:
    error = refused(dsn=f"127.0.0.1:{free_port()}/FREE", **more)

    assert isinstance(error, Unreachable)
    assert "cannot be reached: DPY-6005" in str(error)


def test_a_host_that_no_server_has_is_unreachable() -> None:
    error = refused(dsn="db.invalid:1521/FREE")

    assert isinstance(error, Unreachable)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"dsn": "127.0.0.1/FREE", "pasword": "s3cret"}, "unexpected keyword argument 'pasword'"),
        ({"host": "127.0.0.1", "port": "four", "service_name": "FREE"}, "invalid literal for int"),
        ({"dsn": 3}, "expected str, got int"),
        ({"dsn": "app/s3cret@db.example:99999/FREE"}, "DPY-4018: cannot parse connect string"),
        ({"dsn": "app/other@db.example:99999/FREE"}, "DPY-4018: cannot parse connect string"),
        ({"dsn": "an_alias"}, "DPY-4027: no configuration directory"),
    ],
)
def test_parameters_that_the_driver_refuses_are_one_sentence_without_the_password(
    parameters: dict[str, Any], said: str
) -> None:
    error = refused(**parameters)

    assert isinstance(error, InputError)
    assert said in str(error)
    assert "app/other" not in str(error)
