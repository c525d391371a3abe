"""What tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.local.testing import RunningServer


@pytest.fixture
def led_to(spectron: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The working directory and the environment of somebody who types commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRON_CONTEXT", spectron.context)
    monkeypatch.setenv("SPECTRON_API_KEY", spectron.api_key)
    monkeypatch.setenv("SPECTRON_ENDPOINT", spectron.base_url)
    return spectron
