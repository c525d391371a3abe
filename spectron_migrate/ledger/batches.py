"""Batches: facts that are sent in one request. They share its bytes and key and are decided together.

As with single facts, the intent is on disk before the first byte leaves. Each fact also keeps a key of its own, in case
it is sent alone. The key of the batch is derived from the keys of its facts, so another set of facts has another key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.schema import marks
from spectron_migrate.ledger.sending import (
    INTENDED,
    REQUEST,
    IntendedFact,
    PlannedFact,
    body_of,
    intended_of,
    note_intended,
    receipts,
    still_planned,
)
from spectron_migrate.ledger.sessions import SessionRow, known_session
from spectron_migrate.records import BatchReceipt, Json, canonical_json, digest

MOST_LETTERS = 100_000
"""The most characters of all texts in one batch together. Spectron publishes no limit; a longer text is sent alone."""


@dataclass(frozen=True, slots=True)
class IntendedBatch:
    """Facts whose common bytes are fixed and may have left."""

    id: int
    session: SessionRow
    facts: tuple[IntendedFact, ...]
    """In the order of the messages."""
    content: bytes
    key: str
    sent_after: str
    sent_by: str
    was_sent: bool = True
    """Whether any of its facts may have been sent before this intent."""

    def as_one_fact(self) -> IntendedFact:
        """What the key question needs: the first fact, with its own text, under the key of the batch."""
        first = {"text": self.texts[0], "scopes": self.session.selector, "session_id": self.session.server_id}
        return replace(self.facts[0], content=canonical_json(first).encode(), key=self.key)

    @property
    def texts(self) -> list[str]:
        """The messages' texts, in order."""
        return [str(message["content"]) for message in json.loads(self.content)["messages"]]


def intend_batch(
    ledger: Ledger, facts: Sequence[PlannedFact], session: SessionRow, sent_after: str, sent_by: str
) -> IntendedBatch | None:
    """Fix bytes, key, session and positions of as many of the first facts as fit in one batch.

    Overtaken facts become skipped; those that do not fit stay planned. None if nothing is left to send.
    """
    rows = still_planned(ledger, [fact.id for fact in facts])
    chosen: list[int] = []
    bodies: list[dict[str, Json]] = []
    letters = 0
    for fact in facts:
        if fact.id not in rows:
            continue
        body = body_of(rows[fact.id])
        letters += len(canonical_json(body))
        if bodies and (letters > MOST_LETTERS or body.get("labels") != bodies[0].get("labels")):
            break
        chosen.append(fact.id)
        bodies.append(body)
    if not chosen:
        return None
    content = canonical_json(_batch_body(bodies, session))
    key = digest("batch", *(rows[fact]["key"] for fact in chosen))
    number = _free_number(ledger, chosen)
    ledger.db.execute(REQUEST, (number, content, key, sent_after, sent_by))
    note_intended(ledger, [(fact, session.id, session.used + at) for at, fact in enumerate(chosen)], batch=number)
    return _batch(ledger, number, was_sent=any(rows[fact]["was_sent"] for fact in chosen))


def _free_number(ledger: Ledger, facts: Sequence[int]) -> int:
    """A number for the request of these facts.

    It is made from their numbers, so no other process can choose it at the same moment. An earlier batch that began
    with the same fact is decided, unless other facts of it are still in doubt.
    """
    rows = ledger.db.execute(
        f"SELECT id FROM request WHERE id IN ({marks(facts)})", tuple(-fact for fact in facts)
    ).fetchall()
    taken = {row["id"] for row in rows}
    return next(-fact for fact in facts if -fact not in taken)


def intended_batches(ledger: Ledger, lane: str) -> list[IntendedBatch]:
    """Batches of a lane that are undecided, in the order of sending."""
    rows = ledger.db.execute(
        "SELECT batch FROM fact JOIN lane ON lane.no = fact.lane"
        " WHERE state = 'intended' AND lane.name = ? AND batch IS NOT NULL GROUP BY batch ORDER BY min(order_key)",
        (lane,),
    ).fetchall()
    return [_batch(ledger, row["batch"]) for row in rows]


def count_full(ledger: Ledger, plan: int) -> int:
    """How many facts of the plan are still to be sent with extraction."""
    row = ledger.db.execute(
        "SELECT count(*) FROM fact WHERE plan = ? AND state = 'planned' AND infer = 'full'", (plan,)
    ).fetchone()
    return int(row[0])


def receipt_batch(ledger: Ledger, batch: IntendedBatch, got: BatchReceipt) -> None:
    """Record the receipts of a batch whose messages are all stored."""
    receipts(ledger, [(fact.id, one) for fact, one in zip(batch.facts, got.receipts, strict=True)])


def renew_batch(ledger: Ledger, batch: IntendedBatch, sent_after: str, sent_by: str) -> None:
    """Record that the same bytes are sent again, so the key is valid for another day."""
    ledger.db.execute(
        "UPDATE request SET attempts = attempts + 1, sent_after = ?, sent_by = ? WHERE id = ?",
        (sent_after, sent_by, batch.id),
    )


def _batch(ledger: Ledger, number: int, *, was_sent: bool = True) -> IntendedBatch:
    row = ledger.db.execute("SELECT * FROM request WHERE id = ?", (number,)).fetchone()
    facts = ledger.db.execute(f"{INTENDED} AND fact.batch = ? ORDER BY position", (number,)).fetchall()
    session = known_session(ledger, facts[0]["session"])
    return IntendedBatch(
        row["id"],
        session,
        tuple(intended_of(fact, session) for fact in facts),
        row["body"].encode(),
        row["key"],
        row["sent_after"],
        row["sent_by"],
        was_sent,
    )


def _batch_body(bodies: Sequence[dict[str, Json]], session: SessionRow) -> dict[str, Json]:
    """The body of POST /facts/batch. A batch has no categories, and `ts` is the time of the message."""
    first = bodies[0]
    messages = []
    for body in bodies:
        message = {"role": body["role"], "content": body["text"]}
        if "observed_at" in body:
            message["ts"] = body["observed_at"]
        messages.append(message)
    together: dict[str, Json] = {
        "extract": "per_message",
        "infer": first["infer"],
        "messages": messages,
        "scopes": first["scopes"],
        "session_id": session.server_id,
    }
    if first.get("labels"):
        together["labels"] = first["labels"]
    return together
