"""Questions that are asked of large ledgers read indexes, never all facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.ledger import Ledger
from spectron_migrate.ledger.read import memories, receipts, scopes, status
from spectron_migrate.ledger.schema import DDL

pytestmark = pytest.mark.ledger_file  # it reads SQLite's plans of statements

LARGE = ("fact", "version", "memory", "receipt", "extracted", "residue")


class Explaining:
    """A connection that notes how each statement reads the large tables."""

    def __init__(self, ledger: Ledger) -> None:
        self._db = ledger.db
        self.whole_tables: list[str] = []

    def execute(self, statement: str, *values: Any) -> Any:
        for row in self._db.execute(f"EXPLAIN QUERY PLAN {statement}", *values):
            step = row["detail"]
            if step.startswith("SCAN") and step.split()[1] in LARGE and "INDEX" not in step:
                self.whole_tables.append(f"{step}: {statement}")
        return self._db.execute(statement, *values)


QUESTIONS: dict[str, Callable[[Ledger], object]] = {
    "status": lambda ledger: status.read_status(ledger),
    "ids": lambda ledger: receipts.facts_made_into(ledger, ["turn_1", "ent_2"]),
    "ids of few": lambda ledger: receipts.are_made_of_few(ledger, ["turn_1", "ent_2"], 10),
    "receipts of some facts": lambda ledger: list(receipts.receipts_of(ledger, [1, 2])),
    "receipts in a session": lambda ledger: receipts.receipts_in_session(ledger, "sess_1"),
    "newest receipt": lambda ledger: receipts.newest_receipt(ledger, "memory-1"),
    "message of": lambda ledger: receipts.message_of(ledger, "memory-1"),
    "texts in a message": lambda ledger: receipts.texts_in_message(ledger, "message-1"),
    "last version": lambda ledger: memories.last_version(ledger, "memory-1"),
    "digests": lambda ledger: memories.known_digests(ledger, ["memory-1", "memory-2"]),
    "newest texts": lambda ledger: memories.newest_texts(ledger, ["memory-1", "memory-2"]),
    "what a lens covers": lambda ledger: scopes.selectors_covered(ledger, (("user/anna",), ("user/anna/*",))),
    "facts of selectors": lambda ledger: scopes.stored_facts(ledger, [1, 2], 10),
    "sent versions": lambda ledger: list(scopes.sent_versions(ledger, [1, 2])),
    "overtaken text": lambda ledger: scopes.has_overtaken_text(ledger, [1, 2], "a text", in_parts=False),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_reads_no_whole_table(tmp_path: Path, question: str) -> None:
    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        db: Any = Explaining(ledger)
        real, ledger.db = ledger.db, db
        try:
            QUESTIONS[question](ledger)
        finally:
            ledger.db = real
    assert [] == db.whole_tables


def test_the_large_tables_are_those_of_the_schema() -> None:
    assert [] == [table for table in LARGE if f"CREATE TABLE {table}(" not in DDL]
