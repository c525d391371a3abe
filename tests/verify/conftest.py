"""A local Spectron with memories that a test may tamper with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import FILLED_TEXTS, HOBBIES, Filled


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with server_here(tmp_path / "spectron", context="tampered") as server:
        rows = [memory(number, user, text) for user in ("anna", "bo") for number, text in enumerate(FILLED_TEXTS)]
        dump = write_raw(tmp_path / "all.json", rows)
        assert ExitCode.DONE == replay(server, tmp_path / "state", [dump]).exit_code
        yield Filled(server, tmp_path / "state", dump)


@pytest.fixture
def hobby_rows(user: str) -> list[dict[str, Any]]:
    """Four memories of one user, as Mem0 has them."""
    return [memory(number, user, text) for number, text in enumerate(HOBBIES)]
