"""Commands of several hosts that share a state in Postgres; a host is a working directory of its own here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.local.testing import RunningServer
from tests.cli.support import environment_for
from tests.support.command import command
from tests.support.spectron import memory, write_raw

pytestmark = [pytest.mark.slow]


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """Two working directories that share nothing."""
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def answer(folder: Path, *words: str, environment: dict[str, str], code: int = 0) -> dict[str, Any]:
    ended = command(folder, *words, "--json", environment=environment)
    assert code == ended.returncode, ended
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_what_one_host_replays_the_other_sees(
    hosts: tuple[Path, Path], spectron: RunningServer, postgres_state: str, user: str
) -> None:
    here, there = hosts
    environment = environment_for(spectron)
    write_raw(here / "all.json", [memory(number, user) for number in range(3)])
    done = answer(here, "replay", "--state", postgres_state, "--dump", "all.json", environment=environment)
    assert 3 == done["written"]

    there_env = {**environment, "SPECTRON_MIGRATE_STATE": postgres_state}
    status = answer(there, "status", environment=there_env)
    assert 3 == sum(status["states"].values())
    assert done["migration"] == status["migration"]
    assert [] == list(there.iterdir()), "status writes nothing"
    assert "written" in {each["fate"] for each in answer(there, "explain", user, environment=there_env)["rows"]}
    again = answer(there, "replay", "--dump", str(here / "all.json"), environment=there_env)
    assert (0, 3) == (again["written"], again["already"])


@pytest.mark.parametrize(("words", "code"), [(("status",), 2), (("explain", "alice"), 0)])
def test_looking_at_a_schema_that_is_not_there_does_not_make_it(
    hosts: tuple[Path, Path],
    spectron: RunningServer,
    postgres: str,
    postgres_state: str,
    words: tuple[str, ...],
    code: int,
) -> None:
    ended = command(hosts[0], *words, "--state", postgres_state, environment=environment_for(spectron))
    assert code == ended.returncode, ended
    assert code == 0 or "there is no ledger in postgresql://" in ended.stderr
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres) as db:
        schema = parse_location(postgres_state).schema
        assert None is db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()


@pytest.mark.parametrize("words", [("status",), ("replay", "--dump", "all.json"), ("cutover", "revert"), ("doctor",)])
def test_a_password_is_never_shown(
    hosts: tuple[Path, Path], spectron: RunningServer, postgres_state: str, words: tuple[str, ...], user: str
) -> None:
    write_raw(hosts[0] / "all.json", [memory(1, user)])
    url = postgres_state.replace("migrator@", "migrator:hush@")
    for state in (url, url.replace("?host=", "?password=hush&host="), "postgresql://a:hush@127.0.0.1:9/b"):
        ended = command(hosts[0], *words, "--state", state, environment=environment_for(spectron))
        assert "hush" not in ended.stdout + ended.stderr
        assert "bug" not in ended.stderr


def make_foreign(db: Any, schema: str) -> None:
    db.execute(f'CREATE SCHEMA "{schema}" AUTHORIZATION migrator')
    db.execute(f'CREATE TABLE "{schema}".orders(id int)')


def make_newer(db: Any, schema: str) -> None:
    db.execute(f'CREATE SCHEMA "{schema}" AUTHORIZATION migrator')
    db.execute(f'CREATE TABLE "{schema}".format(part text PRIMARY KEY, number bigint NOT NULL)')
    db.execute(f"INSERT INTO \"{schema}\".format VALUES ('ledger', 999), ('state', 999)")
    db.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA "{schema}" TO migrator')


def make_of_another_user(db: Any, schema: str) -> None:
    db.execute(f'CREATE SCHEMA "{schema}"')
    db.execute(f'CREATE TABLE "{schema}".format(part text PRIMARY KEY, number bigint NOT NULL)')


def make_closed(db: Any, schema: str) -> None:
    db.execute(f'CREATE SCHEMA "{schema}"')


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (make_of_another_user, 6, "may not use the schema"),
        (make_foreign, 2, "holds tables of something else: orders"),
        (make_newer, 2, "has format 999, this version reads format"),
        (make_closed, 6, "lacks a right"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_in_one_sentence_with_a_hint(
    hosts: tuple[Path, Path],
    spectron: RunningServer,
    postgres: str,
    postgres_state: str,
    user: str,
    make: Callable[[Any, str], None],
    code: int,
    said: str,
) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as db:
        make(db, parse_location(postgres_state).schema)
    write_raw(hosts[0] / "all.json", [memory(1, user)])
    words = ("replay", "--dump", "all.json", "--state", postgres_state)
    refused = answer(hosts[0], *words, environment=environment_for(spectron), code=code)
    assert said in refused["error"]["message"]
    assert refused["error"]["hint"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("migrator@", "nobody_here@"), 6, "refuses the user or its password"),
        (("/postgres?", "/no_such_database?"), 2, 'database "no_such_database" does not exist'),
        (("?host=", "?options=-c%20default_transaction_read_only%3Don&host="), 2, "is read-only"),
        (("?host=", "?hostaddr=127.0.0.1&port=9&host="), 7, "does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_in_one_sentence_with_a_hint(
    hosts: tuple[Path, Path],
    spectron: RunningServer,
    postgres_state: str,
    user: str,
    change: tuple[str, str],
    code: int,
    said: str,
) -> None:
    write_raw(hosts[0] / "all.json", [memory(1, user)])
    words = ("replay", "--dump", "all.json", "--state", postgres_state.replace(*change))
    refused = answer(hosts[0], *words, environment=environment_for(spectron), code=code)
    assert said in refused["error"]["message"]
    assert refused["error"]["hint"]
