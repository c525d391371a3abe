"""What the tests of following and of the cutover play on."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.cutover.support import Scene, Store
from tests.mem0.conftest import mem0_app, postgres

__all__ = ["mem0_app", "postgres"]


@pytest.fixture
def scene(spectron: RunningServer, user: str, tmp_path: Path) -> Scene:
    """A scene of its own, on the server that all tests share."""
    return Scene(Store(tmp_path / "mem0"), spectron, tmp_path, user)
