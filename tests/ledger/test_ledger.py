"""The ledger file: one writer, older formats, journals and copies."""

from __future__ import annotations

import fcntl
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import ExitCode, InputError, LedgerLocked
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger import ledger as ledger_module
from spectron_migrate.ledger.ledger import LARGEST_JOURNAL
from spectron_migrate.ledger.read import cutover, plans, receipts
from spectron_migrate.ledger.schema import MIGRATIONS, VERSION
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay import ReplayOptions
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, replay, turns_of, write_raw


def test_a_lock_file_that_was_taken_away_while_waiting_for_it_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    leaving = Ledger.open_for_writing(state)  # claims nothing, so it clears up after itself
    (state / "log.jsonl").touch()
    flock = fcntl.flock

    def late(handle: Any, flags: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        leaving.close()
        flock(handle, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with Ledger.open_for_writing(state), pytest.raises(LedgerLocked), Ledger.open_for_writing(state):
        pass


def test_a_large_transaction_leaves_no_large_journal_behind(tmp_path: Path) -> None:
    journal = tmp_path / "ledger.db-wal"
    answers = "INSERT INTO probe VALUES ('e', 'c', ?, ?, 'now')"
    with Ledger.open_for_writing(tmp_path) as ledger:
        with ledger.transaction(durable=False) as db:
            db.executemany(answers, ((str(number), "x" * 2**20) for number in range(65)))
        assert LARGEST_JOURNAL < journal.stat().st_size
        with ledger.transaction(durable=False) as db:
            db.execute(answers, ("one more", "yes"))
        assert LARGEST_JOURNAL == journal.stat().st_size


def test_two_dry_runs_at_once_do_not_trip_over_each_other(
    spectron: RunningServer, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(spectron, tmp_path / "state", [write_raw(tmp_path / "all.json", [memory(1, user)])])
    up_to_date = ledger_module._bring_up_to_date

    def meanwhile(connection: sqlite3.Connection) -> None:
        """Another process begins one."""
        with monkeypatch.context() as other:
            other.setattr(ledger_module, "_bring_up_to_date", up_to_date)
            other.setattr("os.getpid", lambda: 1)
            with Ledger.scratch_copy(tmp_path / "state"):
                up_to_date(connection)

    monkeypatch.setattr(ledger_module, "_bring_up_to_date", meanwhile)
    with Ledger.scratch_copy(tmp_path / "state") as copy:
        assert 1 == plans.count_by_state(copy, 1)["stored_not_extracted"]
    assert [] == list((tmp_path / "state").glob(".scratch-*"))


def as_version(version: int, state: Path) -> None:
    """Take away what later versions added: indexes first, tables last."""
    since = "".join(MIGRATIONS[each] for each in range(version, VERSION))
    added = re.findall(r"CREATE (INDEX|TABLE) (\w+)|ALTER TABLE (\w+) ADD COLUMN (\w+)", since)
    with sqlite3.connect(state / "ledger.db") as db:
        for kind, name, table, column in sorted(added, key=lambda one: ("INDEX", "", "TABLE").index(one[0])):
            db.execute(f"DROP {kind} {name}" if kind else f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_ledger_of_an_earlier_version_is_read_as_it_is_and_goes_on_when_it_is_written(
    spectron: RunningServer, user: str, tmp_path: Path, version: int
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(number, user) for number in range(20)])
    replay_in_no_time(spectron, tmp_path / "state", dump, options=ReplayOptions(limit=7))
    as_version(version, tmp_path / "state")
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert 7 == len(list(receipts.receipts(ledger)))
        assert (20, {}, {}) == (
            cutover.count_living([ledger]),
            cutover.moved_memories([ledger]),
            cutover.refused_memories([ledger]),
        )
        assert version == ledger.db.execute("PRAGMA user_version").fetchone()[0]
    second = replay_in_no_time(spectron, tmp_path / "state", dump)
    assert (ExitCode.DONE, 13, 7) == (second.exit_code, second.written, second.already)
    with Ledger.open_for_reading(tmp_path / "state") as ledger:
        assert VERSION == ledger.db.execute("PRAGMA user_version").fetchone()[0]
    assert 20 == len(turns_of(spectron, user))


def test_a_ledger_of_a_version_to_come_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay_in_no_time(spectron, tmp_path / "state", dump)
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(InputError, match=f"has format {VERSION + 1}, this version reads formats 1 to {VERSION}"):
        replay_in_no_time(spectron, tmp_path / "state", dump)
