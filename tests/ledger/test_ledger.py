"""The ledger file: one writer, older formats, journals and copies."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.errors import InputError, KeyRefused, LedgerLocked, WrongLedger
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import plans
from spectron_migrate.ledger.schema import FORMAT
from spectron_migrate.ledger.sqlite import LARGEST_JOURNAL
from spectron_migrate.local.testing import RunningServer
from tests.support.here import server_here
from tests.support.proxy import Fault, Seen, misbehaving, refusing
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, replay, write_raw

pytestmark = pytest.mark.ledger_file  # it is about the file


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


def test_two_dry_runs_at_once_do_not_trip_over_each_other(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    replay(spectron, state, [write_raw(tmp_path / "all.json", [memory(1, user)])])
    with Ledger.scratch_copy(state) as first, Ledger.scratch_copy(state) as second:
        assert 1 == plans.count_by_state(first, 1)["stored_not_extracted"]
        assert 1 == plans.count_by_state(second, 1)["stored_not_extracted"]
    assert [] == list(state.glob(".scratch-*"))


def test_a_ledger_of_a_version_to_come_is_refused(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(1, user)])
    replay_in_no_time(spectron, tmp_path / "state", dump)
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(InputError, match=f"has format {FORMAT + 1}, this version reads formats 1 to {FORMAT}"):
        replay_in_no_time(spectron, tmp_path / "state", dump)


def test_a_ledger_from_which_nothing_was_sent_belongs_to_no_context_yet(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    state, raw = tmp_path / "state", write_raw(tmp_path / "all.json", [memory(1, user), memory(2, user)])

    def refuses_the_key(seen: Seen) -> Fault:
        return refusing(401, "wrong key") if seen.path.endswith("/me") else "none"

    with server_here(tmp_path / "other", context="testz") as other:
        with misbehaving(other.base_url, refuses_the_key) as proxy, pytest.raises(KeyRefused):
            replay(other, state, [raw], endpoint=proxy.base_url)
        with Ledger.open_for_reading(state) as ledger:
            assert "testz" == ledger.migration().context  # type: ignore[union-attr]
        summary = replay(spectron, state, [raw])
        assert 2 == summary.written
        with Ledger.open_for_reading(state) as ledger:
            assert spectron.context == ledger.migration().context  # type: ignore[union-attr]
        with pytest.raises(WrongLedger):
            replay(other, state, [raw])


def test_a_ledger_appears_whole_to_whoever_reads_meanwhile(tmp_path: Path) -> None:
    met: list[str] = []
    folders = [tmp_path / str(number) for number in range(15)]
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for folder in folders:
                try:
                    Ledger.open_for_reading(folder).close()
                except InputError as error:
                    met.extend([] if "there is no ledger" in error.message else [error.message])

    reader = threading.Thread(target=read)
    reader.start()
    for folder in folders:
        with Ledger.open_for_writing(folder) as ledger, ledger.transaction():
            ledger.claim(context="c", source="s", mapping_digest="", tool_version="", now="")
    over.set()
    reader.join()
    assert [] == met
