"""What `doctor` says of the Postgres of a state, on a real one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.database.opening import connect
from spectron_migrate.database.tables import format_of
from spectron_migrate.doctor.check import Check
from spectron_migrate.doctor.database import check_database
from spectron_migrate.errors import ExitCode

pytestmark = pytest.mark.slow


def checks(url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> dict[str, Check]:
    return {each.name: each for each in check_database(parse_location(url), now=now)}


def test_a_schema_that_may_be_made_is_fine_and_is_not_made(postgres_state: str) -> None:
    found = checks(postgres_state)
    assert "ok" == found["database"].status
    assert "is made by the first replay" in found["database"].finding
    assert "ok" == found["database: clock"].status
    assert "a round trip takes" in found["database: distance"].finding
    database = connect(parse_location(postgres_state))
    assert format_of(database, "state") is None
    database.close()


def test_a_user_who_may_not_fill_the_schema_hears_how_to_be_let_in(postgres: str, postgres_state: str) -> None:
    location = parse_location(postgres_state)
    owner = connect(parse_location(postgres))
    owner.execute(f'CREATE SCHEMA "{location.schema}"')
    owner.close()
    found = checks(postgres_state)["database"]
    assert "fail" == found.status
    assert f"the user may not create tables in the schema {location.schema}" == found.finding
    assert f"CREATE SCHEMA {location.schema} AUTHORIZATION" in found.hint


def test_a_clock_that_differs_is_named(postgres_state: str) -> None:
    found = checks(postgres_state, now=lambda: datetime.now(UTC) - timedelta(minutes=2))["database: clock"]
    assert "warn" == found.status
    assert "the server's clock is 120 s ahead of this machine's" == found.finding


def test_one_that_does_not_answer_fails_with_its_own_code() -> None:
    found = checks("postgresql://127.0.0.1:9/app")["database"]
    assert "fail" == found.status
    assert ExitCode.UNREACHABLE == found.exit_code
