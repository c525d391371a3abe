"""Commands of several hosts that share a state in Postgres; a host is a working directory of its own here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
