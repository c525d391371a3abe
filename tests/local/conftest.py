"""A fresh local Spectron in memory for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spectron_migrate.local.engine import API_VERSIONS, NEWEST
from tests.local.support import Spectron
from tests.local.support import spectron as running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `every_generation` runs once for each."""
    if "local" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_generation"):
        metafunc.parametrize("local", API_VERSIONS, indirect=True)


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Iterator[Spectron]:
    """A server in this process, with a clock that does not advance by itself."""
    with running(api=getattr(request, "param", NEWEST)) as server:
        yield server
