"""The stores of a state: what is tested with `store` is tested on a directory and on Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spectron_migrate.state.postgres import PostgresState
from spectron_migrate.state.store import StateStore
from tests.state.support import open_store


@pytest.fixture(params=["directory", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Where the state is kept."""
    return str(request.param)


@pytest.fixture
def place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The directory or the URL."""
    return str(tmp_path) if engine == "directory" else str(request.getfixturevalue("postgres_state"))


@pytest.fixture
def another(place: str) -> Iterator[Callable[[], StateStore]]:
    """Opens the state once more, as another process does."""
    opened: list[StateStore] = []

    def open_state() -> StateStore:
        opened.append(open_store(place))
        return opened[-1]

    yield open_state
    for each in opened:
        if isinstance(each, PostgresState):
            with suppress(OSError):
                each.close()


@pytest.fixture
def store(another: Callable[[], StateStore]) -> StateStore:
    """A state that holds nothing yet."""
    return another()
