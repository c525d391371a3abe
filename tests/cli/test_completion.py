"""Tab offers ids from the ledger, within a time limit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectron_migrate.cli import completion
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read.completion import TIME_LIMIT_S
from spectron_migrate.local.testing import RunningServer
from tests.support.command import command
from tests.support.ledgers import OF_MEMORY
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.slow


def offered(folder: Path, *words: str) -> list[str]:
    """What bash offers after these words; the last one is incomplete."""
    line = ["spectron-migrate", *words]
    environment = {
        **os.environ,
        "_SPECTRON_MIGRATE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    return command(folder, environment=environment).stdout.split()


@pytest.fixture
def migrated(spectron: RunningServer, user: str, tmp_path: Path) -> Path:
    """A working directory with a ledger of two users."""
    rows = [memory(0, f"{user}-a"), memory(1, f"{user}-b"), memory(2, f"{user}-a", agent_id="cook", run_id="r1")]
    replay(spectron, tmp_path / ".spectron-migrate", [write_raw(tmp_path / "all.json", rows)])
    return tmp_path


def test_users_agents_and_runs_that_begin_with_the_word_are_offered(migrated: Path, user: str) -> None:
    assert [f"{user}-a", f"{user}-b"] == offered(migrated, "replay", "--user", user[:4])
    assert [f"{user}-b"] == offered(migrated, "replay", "--user", f"{user}-b")
    assert ["cook"] == offered(migrated, "replay", "--agent", "c")
    assert ["r1"] == offered(migrated, "export", "--run", "r")
    assert [] == offered(migrated, "replay", "--user", "[")


def test_the_state_directory_of_the_option_is_read(migrated: Path, user: str) -> None:
    (migrated / ".spectron-migrate").rename(migrated / "elsewhere")
    assert [] == offered(migrated, "replay", "--user", user[:4])
    assert f"{user}-a" in offered(migrated, "replay", "--state", "elsewhere", "--user", user[:4])


def test_migration_scopes_and_undecidable_memories_are_offered(migrated: Path, user: str) -> None:
    with Ledger.open_for_writing(migrated / ".spectron-migrate") as ledger:
        migration = ledger.migration()
        with ledger.transaction() as db:
            db.execute(f"UPDATE fact SET state = 'undecidable' WHERE {OF_MEMORY}", (f"{user}-b-0001",))
    assert migration is not None
    assert [migration.id] == offered(migrated, "cutover", "complete", "--migration", "")
    assert f"user/{user}-b" in offered(migrated, "erase", "--scope", f"user/{user}")
    assert [f"{user}-b-0001=present", f"{user}-b-0001=absent"] == offered(migrated, "replay", "--resolve", user)


def test_without_a_readable_ledger_nothing_is_offered_and_nothing_printed(tmp_path: Path) -> None:
    assert [] == offered(tmp_path, "replay", "--user", "a")
    (tmp_path / ".spectron-migrate").mkdir()
    (tmp_path / ".spectron-migrate" / "ledger.db").write_bytes(b"no database" * 100)
    assert [] == offered(tmp_path, "replay", "--user", "a")


def test_a_large_ledger_does_not_delay_the_shell(migrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open_for_writing(migrated / ".spectron-migrate") as ledger, ledger.transaction() as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
            " INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state)"
            " SELECT 'x' || i, json_object('user_id', 'zz' || i), '', (SELECT no FROM scan LIMIT 1), 1, 'active' FROM n"
        )
    context: Any = SimpleNamespace(params={"state": migrated / ".spectron-migrate"})
    began = time.monotonic()
    completion.users(context, "nobody begins so")
    assert time.monotonic() - began < TIME_LIMIT_S + 1.0
