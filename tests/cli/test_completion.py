"""Tab offers the ids that the ledger knows, at once or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from spectron_migrate.cli.completion import PATIENCE_S
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from tests.support.command import command
from tests.support.spectron import memory, replay, write_raw


def offered(folder: Path, *words: str) -> list[str]:
    """What bash would show after these words, the last of which is not finished."""
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
    """A directory with the ledger of two users' memories."""
    rows = [memory(0, f"{user}-a"), memory(1, f"{user}-b"), memory(2, f"{user}-a", agent_id="cook", run_id="r1")]
    replay(spectron, tmp_path / ".spectron-migrate", [write_raw(tmp_path / "all.json", rows)])
    return tmp_path


def test_users_agents_and_runs_are_offered_by_how_they_begin(migrated: Path, user: str) -> None:
    assert [f"{user}-a", f"{user}-b"] == offered(migrated, "replay", "--user", user[:4])
    assert [f"{user}-b"] == offered(migrated, "replay", "--user", f"{user}-b")
    assert ["cook"] == offered(migrated, "replay", "--agent", "c")
    assert ["r1"] == offered(migrated, "export", "--run", "r")
    assert [] == offered(migrated, "replay", "--user", "[")


def test_another_state_directory_is_looked_at_where_it_was_named(migrated: Path, user: str) -> None:
    (migrated / ".spectron-migrate").rename(migrated / "elsewhere")
    assert [] == offered(migrated, "replay", "--user", user[:4])
    assert f"{user}-a" in offered(migrated, "replay", "--state", "elsewhere", "--user", user[:4])


def test_migration_scopes_and_undecidable_memories_are_offered(migrated: Path, user: str) -> None:
    with Ledger.open_for_writing(migrated / ".spectron-migrate") as ledger:
        migration = ledger.migration()
        with ledger.transaction() as db:
            db.execute("UPDATE fact SET state = 'undecidable' WHERE mem0_id = ?", (f"{user}-b-0001",))
    assert migration is not None
    assert [migration.id] == offered(migrated, "cutover", "complete", "--migration", "")
    assert f"user/{user}-b" in offered(migrated, "erase", "--scope", f"user/{user}")
    assert [f"{user}-b-0001=present", f"{user}-b-0001=absent"] == offered(migrated, "replay", "--resolve", user)


def test_without_a_ledger_or_with_a_broken_one_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    assert [] == offered(tmp_path, "replay", "--user", "a")
    (tmp_path / ".spectron-migrate").mkdir()
    (tmp_path / ".spectron-migrate" / "ledger.db").write_bytes(b"no database" * 100)
    assert [] == offered(tmp_path, "replay", "--user", "a")


def test_nobody_waits_for_a_large_ledger(migrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace
    from typing import Any

    from spectron_migrate.cli import completion

    with Ledger.open_for_writing(migrated / ".spectron-migrate") as ledger, ledger.transaction() as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
            " INSERT INTO memory(mem0_id, record, digest, scan)"
            " SELECT 'x' || i, json_object('user_id', 'zz' || i), '', (SELECT id FROM scan LIMIT 1) FROM n"
        )
    context: Any = SimpleNamespace(params={"state": migrated / ".spectron-migrate"})
    began = time.monotonic()
    completion.users(context, "nobody begins so")
    assert time.monotonic() - began < PATIENCE_S + 1.0
