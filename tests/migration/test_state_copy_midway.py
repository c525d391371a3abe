"""A migration that was begun in a directory goes on where `state copy` has moved it: every memory exactly once."""

from __future__ import annotations

import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.database.location import is_url, parse_location
from spectron_migrate.dump import open_any
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from tests.support.oracle import find_violations
from tests.support.proxy import Fault, Seen, misbehaving
from tests.support.replaying import is_write
from tests.support.spectron import memory, write_raw
from tests.support.warm import start_command

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # it moves states between files and Postgres itself
USERS, EACH = 6, 6


@pytest.fixture
def users(led_to: RunningServer, user: str) -> list[str]:
    """The users of a dump in the working directory."""
    named = [f"{user}{letter}" for letter in "abcdef"[:USERS]]
    rows = [memory(number, one) for one in named for number in range(EACH)]
    assert 0 == run(["export", "--from", str(write_raw(Path("all.json"), rows)), "-q"])
    return named


def started(*words: str, endpoint: str) -> ForkServerProcess:
    """A command in a process of its own."""
    return start_command(Path.cwd(), *words, environment={**os.environ, "SPECTRON_ENDPOINT": endpoint})


def killed_at(server: RunningServer, at: int, *words: str) -> None:
    """A replay that is killed at its n-th write, whose answer nobody gets."""
    running: list[ForkServerProcess] = []
    writes = iter(range(1, 1000))

    def kill(seen: Seen) -> Fault:
        if is_write(seen) and next(writes) == at:
            running[0].kill()
            return "cut_after"
        return "none"

    with misbehaving(server.base_url, kill) as proxy:
        running.append(started("replay", *words, endpoint=proxy.base_url))
        running[0].join(120)
    assert -signal.SIGKILL == running[0].exitcode


def violations(server: RunningServer, state: str, users: list[str]) -> list[str]:
    """What the oracle finds on the server's own tables, of these users."""
    place = parse_location(state) if is_url(state) else Path(state)
    with open_any([Path("dump")]) as dump:
        found = find_violations(server.database, place, list(dump.memories()), load_mapping(None))  # type: ignore[arg-type]
    return [each for each in found if any(user in each for user in users)]


def test_moved_in_the_middle_and_finished_by_three_workers(
    led_to: RunningServer, users: list[str], postgres_state: str
) -> None:
    killed_at(led_to, 15, "--state", "state", "--max-in-flight", "4")
    assert 0 == run(["state", "copy", "state", postgres_state, "-q"])
    workers = [started("replay", "--state", postgres_state, endpoint=led_to.base_url) for _ in range(3)]
    for each in workers:
        each.join(120)
        assert 0 == each.exitcode
    assert [] == violations(led_to, postgres_state, users)
    assert 2 == run(["replay", "--state", "state"])


def test_moved_there_and_back_in_the_middle(led_to: RunningServer, users: list[str], postgres_state: str) -> None:
    killed_at(led_to, 9, "--state", "state", "--max-in-flight", "4")
    assert 0 == run(["state", "copy", "state", postgres_state, "-q"])
    killed_at(led_to, 9, "--state", postgres_state, "--max-in-flight", "4")
    assert 0 == run(["state", "copy", postgres_state, "back", "-q"])
    assert 0 == run(["replay", "--state", "back", "-q"])
    assert [] == violations(led_to, "back", users)
