"""Many facts in a few statements: the ledger says the same of each as if it had been alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectron_migrate.ledger import Ledger, sending
from spectron_migrate.ledger.sending import PlannedFact
from spectron_migrate.ledger.sessions import SessionRow
from spectron_migrate.records import Receipt
from tests.support.ledgers import facts_of

pytestmark = [pytest.mark.slow, pytest.mark.both_engines]

SELECTOR = (("user/alice",),)
AT = "2026-01-01T00:00:00.000000Z"


def planned(ledger: Ledger, count: int) -> list[PlannedFact]:
    """So many facts of one lane, and their session."""
    db = ledger.db
    db.execute("INSERT INTO scan(no, id, kind, manifest_digest) VALUES (1, 's', 'oss', '')")
    db.execute("INSERT INTO plan(id, fingerprint, scan, at) VALUES (1, 'p', 1, ?)", (AT,))
    db.execute("INSERT INTO lane(no, name) VALUES (1, 'user/alice')")
    db.execute("INSERT INTO selector(no, text) VALUES (1, '[[\"user/alice\"]]')")
    db.execute(
        "INSERT INTO session(id, selector, infer, part, state, server_id, created_at)"
        " VALUES (1, 1, 'full', 0, 'open', 'x', ?)",
        (AT,),
    )
    for number in range(1, count + 1):
        name = f"m{number:03}"
        db.execute(
            "INSERT INTO memory(mem0_id, record, digest, scan, newest_version, mem0_state)"
            " VALUES (?, '{}', '', 1, 1, 'active')",
            (name,),
        )
        db.execute(
            "INSERT INTO version(id, mem0_id, number, text, digest, text_at, scan, recorded_at)"
            " VALUES (?, ?, 1, ?, '', ?, 1, ?)",
            (number, name, f"says {number}", AT, AT),
        )
        db.execute(
            "INSERT INTO fact(id, plan, lane, order_key, selector, infer, key, state)"
            " VALUES (?, 1, 1, ?, 1, 'full', ?, 'planned')",
            (number, name, f"key {number}"),
        )
    return sending.next_planned(ledger, 1, "user/alice", "full", count)


def answer(number: int) -> Receipt:
    """Of every third fact nothing was extracted."""
    extracted = number % 3 > 0
    ids = (f"e{number}", f"a{number}") if extracted else ()
    return Receipt(turn_id=f"t{number}", chunk_id=f"c{number}", ids=ids, extracted=extracted)


@pytest.mark.parametrize("count", [1, 7, 64, 70])
def test_facts_are_intended_and_answered_together_as_one_by_one(tmp_path: Path, count: int) -> None:
    session = SessionRow(1, SELECTOR, None, "full", "x", 0)
    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        with ledger.transaction():
            facts = planned(ledger, count)
        with ledger.transaction():
            sending.intend(ledger, [(fact, session) for fact in facts], AT, "me")
        intended = facts_of(ledger)
        answers = [(fact.id, answer(fact.id)) for fact in facts]
        with ledger.transaction():
            sending.receipts(ledger, answers[1:])
        almost = facts_of(ledger)
        with ledger.transaction():
            sending.receipt(ledger, *answers[0], decided_by="answer")
        done = facts_of(ledger)
        extracted = [tuple(row) for row in ledger.db.execute("SELECT fact, id FROM extracted ORDER BY fact, id DESC")]
        requests = ledger.db.execute("SELECT count(*) FROM request").fetchone()[0]
    assert [(f"key {number}", number - 1, "x") for number in range(1, count + 1)] == [
        (row["sent_key"], row["position"], row["server_id"]) for row in intended
    ]
    assert ["intended"] == [row["state"] for row in almost if row["turn_id"] is None]
    assert [(f"t{number}", f"c{number}", "answer") for number in range(1, count + 1)] == [
        (row["turn_id"], row["chunk_id"], row["decided_by"]) for row in done
    ]
    assert [("written" if number % 3 else "stored_not_extracted") for number in range(1, count + 1)] == [
        row["state"] for row in done
    ]
    assert [each for number, one in answers for each in [(number, id_) for id_ in one.ids]] == extracted
    assert 0 == requests


@pytest.mark.ledger_file
def test_answers_to_many_facts_take_as_many_statements_as_the_answer_to_one(tmp_path: Path) -> None:
    session = SessionRow(1, SELECTOR, None, "full", "x", 0)
    counts = []
    with Ledger.open_for_writing(tmp_path / "state") as ledger:
        with ledger.transaction():
            facts = planned(ledger, 50)
            sending.intend(ledger, [(fact, session) for fact in facts], AT, "me")
        for part in (facts[:1], facts[1:]):
            seen: list[str] = []
            ledger.db.set_trace_callback(seen.append)  # type: ignore[attr-defined]
            with ledger.transaction():
                sending.receipts(ledger, [(fact.id, Receipt(f"t{fact.id}", None, (), True)) for fact in part])
            ledger.db.set_trace_callback(None)  # type: ignore[attr-defined]
            counts.append(len(seen))
    assert counts[0] == counts[1]
