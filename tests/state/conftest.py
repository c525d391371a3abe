"""The stores of a state: what is tested with `store` is tested on a directory and on Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectron_migrate.database.location import parse_location
from spectron_migrate.state.directory import DirectoryState
from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.store import StateStore


@pytest.fixture(params=["directory", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Where the state is kept."""
    return str(request.param)


@pytest.fixture
def another(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], StateStore]]:
    """Opens the state once more, as another process does."""
    if engine == "directory":
        yield lambda: DirectoryState(tmp_path)
        return
    location = parse_location(request.getfixturevalue("postgres_state"))
    opened: list[PostgresState] = []

    def open_state() -> StateStore:
        opened.append(PostgresState(location))
        return opened[-1]

    yield open_state
    for each in opened:
        each.close()


@pytest.fixture
def store(another: Callable[[], StateStore]) -> StateStore:
    """A state that holds nothing yet."""
    return another()
