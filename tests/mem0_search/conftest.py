"""One real Mem0 store for all tests here; none of them may change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.rehearsal.store import make_store


@pytest.fixture(scope="session")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Mem0 config of the rehearsal's store."""
    return make_store(tmp_path_factory.mktemp("mem0-store"))
