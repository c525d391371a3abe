"""What probes found out about a Spectron, stored by endpoint and context."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from spectron_migrate.ledger.ledger import Ledger

FULL_WRITE = "seconds a write with extraction takes"
NONE_WRITE = "seconds a write without extraction takes"


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One question to a Spectron, and its answer."""

    question: str
    answer: str
    at: str


def keep_answer(ledger: Ledger, endpoint: str, context: str, answer: ProbeAnswer) -> None:
    """Record an answer, replacing an earlier one. Call inside a transaction."""
    ledger.db.execute(
        "INSERT INTO probe(endpoint, context, question, answer, at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT(endpoint, context, question) DO UPDATE SET answer = excluded.answer, at = excluded.at",
        (endpoint, context, answer.question, answer.answer, answer.at),
    )


def forget_answer(ledger: Ledger, question: str) -> None:
    """Remove the answers of all endpoints to a question. Call inside a transaction."""
    ledger.db.execute("DELETE FROM probe WHERE question = ?", (question,))


def probe_answers(ledger: Ledger, context: str, endpoint: str | None = None) -> list[ProbeAnswer]:
    """Answers of a context, newest first; of one endpoint or of all."""
    here, values = ("", ()) if endpoint is None else (" AND endpoint = ?", (endpoint,))
    rows = ledger.db.execute(
        f"SELECT question, answer, at FROM probe WHERE context = ?{here} ORDER BY at DESC, question",
        (context, *values),
    )
    return [ProbeAnswer(row["question"], row["answer"], row["at"]) for row in rows]


def answer_to(ledger: Ledger, endpoint: str, context: str, question: str) -> str:
    """What an endpoint answered to one question; empty if it was never asked."""
    answers = probe_answers(ledger, context, endpoint)
    return next((answer.answer for answer in answers if answer.question == question), "")


def measured_seconds(ledger: Ledger, context: str) -> dict[str, float]:
    """Seconds that writes took when the context was last probed, by question."""
    found: dict[str, float] = {}
    for row in probe_answers(ledger, context):
        if row.question in (FULL_WRITE, NONE_WRITE) and row.question not in found:
            with suppress(ValueError):
                found[row.question] = float(row.answer.split()[0])
    return found
