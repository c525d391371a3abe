"""A state directory that an earlier version began goes on: its ledger, and its verification."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode
from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import cutover, receipts, status
from spectron_migrate.ledger.schema import FORMAT
from spectron_migrate.mapping import load_mapping
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support import oracle
from tests.support.here import server_here
from tests.support.ledgers import facts_of
from tests.support.replaying import replay_in_no_time
from tests.support.spectron import memory, write_raw
from tests.verify.support import RecordingReporter, verify

pytestmark = pytest.mark.ledger_file  # versions before had files alone

DATA = Path(__file__).parents[1] / "data" / "state-format-3"
BEGAN = "2026-11-30T00:30:16.948303Z"
"""When the verification in it began."""
_OLDER = {
    2: """
DELETE FROM fact WHERE mem0_id LIKE 'dee-%' OR mem0_id = 'message-1';
DELETE FROM memory WHERE mem0_id LIKE 'dee-%' OR mem0_id = 'message-1';
DROP INDEX memory_message;
DROP INDEX fact_message;
ALTER TABLE memory DROP COLUMN is_message;
ALTER TABLE fact DROP COLUMN message;
PRAGMA user_version = 2;
""",
    1: """
UPDATE fact SET batch = NULL, state = 'planned', session = NULL, position = NULL, sent_after = NULL
  WHERE batch IS NOT NULL AND state = 'intended';
DROP INDEX memory_moved;
DROP INDEX fact_skipped;
DROP INDEX fact_late;
DROP INDEX fact_refused;
ALTER TABLE memory DROP COLUMN moved_from;
ALTER TABLE plan DROP COLUMN scopes;
ALTER TABLE plan DROP COLUMN lanes;
ALTER TABLE fact DROP COLUMN batch;
DROP TABLE batch;
PRAGMA user_version = 1;
""",
}
"""What the format before it lacked."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what the earlier version left."""
    shutil.copytree(DATA, tmp_path / "copy")
    return tmp_path / "copy"


def make_older(state: Path, version: int) -> None:
    """Take away what later formats added."""
    with closing(sqlite3.connect(state / "ledger.db")) as db:
        for each in range(FORMAT - 2, version - 1, -1):
            db.executescript(_OLDER[each])


def content(state: Path) -> list[dict[str, Any]]:
    with Ledger.open_for_reading(state) as ledger:
        return facts_of(ledger)


def counts(state: Path) -> dict[str, int]:
    with closing(sqlite3.connect(state / "ledger.db")) as db:
        return dict(db.execute("SELECT state, count(*) FROM fact GROUP BY state").fetchall())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_is_read_without_changing_it(folder: Path, version: int) -> None:
    state = folder / "state"
    make_older(state, version)
    before = (state / "ledger.db").read_bytes()
    with Ledger.open_for_reading(state) as ledger:
        assert counts(state) == status.read_status(ledger).states
        assert (
            9
            == len(list(receipts.receipts(ledger)))
            == counts(state)["written"] + counts(state)["stored_not_extracted"]
        )
        assert ["ann-0002"] == list(cutover.refused_memories(ledger))
    assert before == (state / "ledger.db").read_bytes()
    assert [] == list(state.glob(".scratch-*"))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_is_brought_up_to_date_by_its_writer_and_a_copy_is_kept(folder: Path, version: int) -> None:
    state = folder / "state"
    make_older(state, version)
    as_copied, states = content(state), counts(state)
    Ledger.open_for_writing(state).close()
    copy = state / f"ledger-format-{version}.db"
    assert 0o600 == copy.stat().st_mode & 0o777
    with closing(sqlite3.connect(copy)) as db:
        assert version == db.execute("PRAGMA user_version").fetchone()[0]
        assert states == dict(db.execute("SELECT state, count(*) FROM fact GROUP BY state").fetchall())
    with closing(sqlite3.connect(state / "ledger.db")) as db:
        assert FORMAT == db.execute("PRAGMA user_version").fetchone()[0]
        assert [] == db.execute("PRAGMA foreign_key_check").fetchall()
        assert "ok" == db.execute("PRAGMA integrity_check").fetchone()[0]
        made = {row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    assert as_copied == content(state)
    fresh = folder / "fresh"
    with Ledger.open_for_writing(fresh) as ledger:
        assert made == {row[0] for row in ledger.db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}


def test_the_bytes_of_what_is_in_doubt_stay_as_they_were_intended(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "state" / "ledger.db")) as db:
        single = db.execute("SELECT body, key FROM fact WHERE mem0_id = 'eve-0001'").fetchone()
        batch = db.execute(
            "SELECT batch.body, batch.key FROM fact JOIN batch ON batch.id = fact.batch WHERE mem0_id = 'cy-0003'"
        ).fetchone()
    kept = {fact["mem0_id"]: (fact["sent_body"], fact["sent_key"]) for fact in content(folder / "state")}
    assert single == kept["eve-0001"]
    assert batch == kept["cy-0002"] == kept["cy-0003"] == kept["cy-0004"]


def test_a_copy_of_an_older_ledger_is_outdated_once_that_is_written(folder: Path) -> None:
    with Ledger.open_for_reading(folder / "state") as ledger:
        assert ledger.is_copy
        assert not ledger.is_outdated_copy
        Ledger.open_for_writing(folder / "state").close()
        assert ledger.is_outdated_copy
    with Ledger.open_for_reading(folder / "state") as ledger:
        assert not ledger.is_copy


def test_a_replay_goes_on_to_exactly_once_and_its_verification_begins_anew(folder: Path) -> None:
    state, mapping, reporter = folder / "state", folder / "mapping.yaml", RecordingReporter()
    dump = write_raw(folder / "now.json", now_in_mem0(folder / "all.json"))
    options = ReplayOptions(resolve={"bob-0001": "absent"}, retry_failed=True)
    with server_here(folder / "server", context="tests") as server:
        first = replay_in_no_time(server, state, dump, mapping=mapping, options=options)
        again = replay_in_no_time(server, state, dump, mapping=mapping)
        with open_any([dump]) as opened:
            wrong = oracle.find_violations(server.database, state, opened.memories(), load_mapping(mapping))
        now = datetime.fromisoformat(BEGAN) + timedelta(hours=1)
        summary = verify(server, state, [dump], mapping=mapping, reporter=reporter, now=lambda: now)
    assert [
        f"the verification that another version began at {BEGAN} starts over, because its findings are about the ledger"
        " as that version wrote it"
    ] == reporter.messages
    assert [] == wrong
    assert ExitCode.DONE == first.exit_code
    assert (ExitCode.DONE, 0) == (again.exit_code, again.written)
    assert 0 == summary.report["measured"]["integrity"]["missing"]
    assert not (state / "verify.db").exists()


def now_in_mem0(dump: Path) -> list[dict[str, Any]]:
    """What the dump says, and what was captured later."""
    later = "2026-01-01T00:00:00+00:00"
    rows = {row["id"]: row for row in json.loads(dump.read_text())["results"]}
    del rows["ann-0001"], rows["ann-0005"]
    rows["ann-0000"] |= {"memory": "ann remembers something else", "updated_at": later}
    for number, text in enumerate(("Moved to Oslo", "Likes fish")):
        rows[f"dee-{number:04d}"] = memory(number, "dee", text, at=later)
    return list(rows.values())
