"""Every test starts without the environment's keys and endpoints, and in a directory of its own where it asks."""

from __future__ import annotations

import os

import pytest

from spectron_migrate.rehearse import FOREIGN_PREFIXES


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's leads a test to a real service."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES) and name != "SPECTRON_OPENAPI":
            monkeypatch.delenv(name)
