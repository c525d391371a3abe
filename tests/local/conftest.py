"""A fresh local Spectron in memory for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.local.support import Spectron
from tests.local.support import spectron as running


@pytest.fixture
def local() -> Iterator[Spectron]:
    """A server in this process, with a clock that does not advance by itself."""
    with running() as server:
        yield server
