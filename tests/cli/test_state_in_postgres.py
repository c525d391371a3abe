"""Commands of several hosts that share a state in Postgres; a host is a working directory of its own here."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.local.testing import RunningServer
from tests.cli.support import command_line, environment_for
from tests.mem0.qdrant_points import key_of, point, uuid, write_store
from tests.support.command import command
from tests.support.proxy import gated
from tests.support.spectron import memory, write_raw
from tests.support.waiting import wait_until

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


def test_each_replay_at_work_is_shown_on_every_host(
    hosts: tuple[Path, Path], spectron: RunningServer, postgres_state: str, user: str
) -> None:
    here, there = hosts
    write_raw(here / "all.json", [memory(number, f"{user}{number % 8}") for number in range(16)])
    environment = environment_for(spectron)
    with gated(spectron.base_url) as gate:
        gate.shut = lambda seen: seen.writes_fact
        words = (
            "replay",
            "--state",
            postgres_state,
            "--dump",
            str(here / "all.json"),
            "--max-in-flight",
            "1",
            "--json",
        )
        workers = [
            subprocess.Popen(
                command_line(*words),
                cwd=host,
                env=environment_for(spectron, gate.base_url),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host in hosts
        ]
        wait_until(lambda: 2 == sum(seen.writes_fact for seen in gate.seen), seconds=120)
        status = answer(there, "status", "--state", postgres_state, environment=environment)
        screen = command(there, "status", "--state", postgres_state, environment=environment).stdout
        gate.shut = lambda seen: False
        ended = [worker.communicate(timeout=120) for worker in workers]
    assert [0, 0] == [worker.returncode for worker in workers], ended
    assert {worker.pid for worker in workers} == {run["process"] for run in status["runs"] if run["at_work"]}
    assert {socket.gethostname()} == {run["host"] for run in status["runs"]}
    assert "2 replays at work" in screen
    assert all(re.search(rf"^ *{worker.pid} +{re.escape(socket.gethostname())} ", screen, re.M) for worker in workers)
    after = answer(there, "status", "--state", postgres_state, environment=environment)["runs"]
    assert [False, False] == [run["at_work"] for run in after]
    assert 16 == sum(run["written"] for run in after)


LOOKING = {
    "status": 2,
    "explain alice": 0,
    "doctor": 0,
    "dual-verify": 2,
    "erase --migration m --scope user/a --yes user/a": 2,
    "export --from all.json": 0,
    "replay --dump all.json --dry-run": 0,
    "replay --dump all.json --preview 1": 0,
    "replay": 2,
    "replay --late-writers": 10,
    "cutover check": 4,
    "cutover shift 10": 10,
    "cutover accept refused --reason w": 10,
    "cutover revert": 10,
    "cutover complete --yes": 10,
    "cutover abort --yes": 10,
    "state copy STATE elsewhere": 2,
    "state copy --backup STATE elsewhere": 2,
    "": 0,
}
"""Commands that make no state, and how they end where there is none."""


@pytest.mark.parametrize("words", list(LOOKING))
def test_a_command_that_makes_no_state_leaves_nothing_behind_a_mistyped_address(
    hosts: tuple[Path, Path], spectron: RunningServer, postgres: str, postgres_state: str, user: str, words: str
) -> None:
    write_raw(hosts[0] / "all.json", [memory(1, user)])
    write_store(hosts[0] / "mem0", [(key_of(uuid(1)), point(uuid(1), data="likes tea", user_id=user, hash="x"))])
    config = {"vector_store": {"provider": "qdrant", "config": {"path": str(hosts[0] / "mem0" / "store")}}}
    (hosts[0] / "mem0.json").write_text(json.dumps(config))
    settings = {"version": 1, "mem0": {"oss": {"config": "mem0.json"}}}
    (hosts[0] / "spectron-migrate.yaml").write_text(json.dumps(settings))
    environment = {**environment_for(spectron), "SPECTRON_MIGRATE_STATE": postgres_state}
    ended = command(hosts[0], *words.replace("STATE", postgres_state).split(), environment=environment)
    assert LOOKING[words] == ended.returncode, ended
    if ended.returncode == 2:
        assert re.search("there is no (ledger|state) in postgresql://|there is no dump at dump", ended.stderr)
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
