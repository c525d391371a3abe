"""A directory of its own for each test, in which a command finds its Spectron by the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer
from tests.cli.support import access_variables


@pytest.fixture
def configured(spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The Spectron that SPECTRON_ENDPOINT and its like name; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    for name, value in access_variables(spectron).items():
        monkeypatch.setenv(name, value)
    return spectron
