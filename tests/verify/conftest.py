"""A local Spectron with memories that a test may tamper with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode
from tests.support.here import server_here
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import FILLED_TEXTS, HOBBIES, Filled
from tests.verify.tampered import Migrated, rows


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


def migrate(folder: Path) -> None:
    """A migration of which one memory was corrected on the way."""
    with server_here(folder / "spectron", context="tampered") as server:
        before = [
            {**row, "memory": row["memory"].replace("optician", "astronomer")} if "of anna" in row["memory"] else row
            for row in rows()
        ]
        replay(server, folder / "state", [write_raw(folder / "before.json", before)])
        now = [
            {**row, "updated_at": "2025-02-01T00:00:00+00:00"} if "of anna as an optician" in row["memory"] else row
            for row in rows()
        ]
        assert ExitCode.DONE == replay(server, folder / "state", [write_raw(folder / "all.json", now)]).exit_code


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migration that was made once, with its state in files; every test works on a copy."""
    folder = tmp_path_factory.mktemp("template")
    migrate(folder)
    return folder


@pytest.fixture
def migrated(request: pytest.FixtureRequest, ledger_engine: str, tmp_path: Path) -> Iterator[Migrated]:
    folder = tmp_path / "copy"
    if ledger_engine == "sqlite":
        shutil.copytree(request.getfixturevalue("template"), folder)
    else:
        folder.mkdir()
        migrate(folder)
    with server_here(folder / "spectron", context="tampered") as server:
        yield Migrated(server, folder)
