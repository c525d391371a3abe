"""Facts that are sent one by one, from intent to receipt. Call every function here inside a transaction of `writer`.

Before the first byte leaves, the session's id, the final bytes and the key are on disk. Before the next byte of the
session, every decision except a plain 200 is on disk. So a decision that is lost is always a 200, and the next run
finds its turn in the listing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from spectron_migrate.database.interface import ResultRow
from spectron_migrate.ledger.bodies import build_body
from spectron_migrate.ledger.lanes import LANE
from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import mark_if_late, skip_if_overtaken
from spectron_migrate.ledger.schema import FACTS, IS_CURRENT, FactState, flat, marks, row_sets, values
from spectron_migrate.ledger.sessions import SessionRow, known_session
from spectron_migrate.records import Infer, Json, Receipt, Selector, canonical_json, selector_of


@dataclass(frozen=True, slots=True)
class PlannedFact:
    """A fact that waits to be sent."""

    id: int
    mem0_id: str
    selector: Selector
    run: str | None
    infer: Infer
    order_key: str


@dataclass(frozen=True, slots=True)
class IntendedFact:
    """A fact whose bytes are fixed and may have left."""

    id: int
    mem0_id: str
    session: SessionRow
    position: int
    content: bytes
    key: str
    infer: Infer
    sent_after: str
    attempts: int
    candidate: str | None
    order_key: str
    sent_by: str
    was_sent: bool = True
    """Whether its key may have been sent before this intent, also by an earlier process.

    If not, only another ledger can have used it.
    """


def next_planned(
    ledger: Ledger, plan: int, lane: str, infer: Infer, limit: int, *, after: str = ""
) -> list[PlannedFact]:
    """The next planned facts of a lane after the order key `after`, oldest first."""
    rows = ledger.db.execute(
        "SELECT fact.id, version.mem0_id, selector.text AS selector, run, infer, order_key"
        " FROM fact JOIN version ON version.id = fact.id JOIN selector ON selector.no = fact.selector"
        f" WHERE state = 'planned' AND {LANE} AND plan = ? AND infer = ? AND order_key > ? ORDER BY order_key LIMIT ?",
        (lane, plan, infer, after, limit),
    )
    return [
        PlannedFact(row["id"], row["mem0_id"], selector_of(row["selector"]), row["run"], row["infer"], row["order_key"])
        for row in rows
    ]


# -- facts ------------------------------------------------------------------------------------------------


def intend(
    ledger: Ledger, facts: Sequence[tuple[PlannedFact, SessionRow]], sent_after: str, sent_by: str
) -> list[IntendedFact]:
    """Fix bytes, key, session and position of facts that are about to be sent, in order.

    Facts that a newer version or a tombstone has overtaken become skipped, and are left out.
    """
    rows = still_planned(ledger, [fact.id for fact, _ in facts])
    intended = []
    used: dict[int, int] = {}
    for fact, session in facts:
        row = rows.get(fact.id)
        if row is None:
            continue
        position = used.get(session.id, session.used)
        used[session.id] = position + 1
        content = canonical_json({**body_of(row), "session_id": session.server_id})
        intended.append(
            IntendedFact(
                fact.id,
                fact.mem0_id,
                session,
                position,
                content.encode(),
                row["key"],
                fact.infer,
                sent_after,
                0,
                None,
                fact.order_key,
                sent_by,
                bool(row["was_sent"]),
            )
        )
    ledger.db.executemany(
        REQUEST, [(one.id, one.content.decode(), one.key, one.sent_after, one.sent_by) for one in intended]
    )
    note_intended(ledger, [(one.id, one.session.id, one.position) for one in intended])
    return intended


SENT_BEFORE = "sent before"
"""The reason of an intended fact whose key was sent under an earlier intent.

It shows this even if this intent never leaves.
"""


def note_intended(ledger: Ledger, places: Sequence[tuple[int, int, int]], *, batch: int | None = None) -> None:
    """Record where facts are sent: each with its session and its position there.

    `batch`: the request that they share.
    """
    for rows in row_sets(places):
        ledger.db.execute(
            f"WITH place(fact, session, position) AS ({values(rows)}) UPDATE fact SET state = 'intended',"
            " session = place.session, position = place.position, batch = ?,"
            " reason = CASE WHEN was_sent = 1 THEN ? END, was_sent = 1 FROM place WHERE fact.id = place.fact",
            (*flat(rows), batch, SENT_BEFORE),
        )


REQUEST = "INSERT INTO request(id, body, key, sent_after, sent_by) VALUES (?, ?, ?, ?, ?)"
"""Stores bytes that are about to leave."""


def still_planned(ledger: Ledger, facts: Sequence[int]) -> dict[int, ResultRow]:
    """The facts that are still planned, by id, with everything that their bodies need.

    Overtaken ones become skipped.
    """
    if not facts:
        return {}
    rows = ledger.db.execute(
        "SELECT fact.id, key, infer, role, category, labels, was_sent, version.text, text_at,"
        f" selector.text AS selector, {IS_CURRENT} AS is_current FROM {FACTS}"
        " JOIN selector ON selector.no = fact.selector"
        f" WHERE fact.id IN ({marks(facts)}) AND fact.state = 'planned'",
        tuple(facts),
    ).fetchall()
    wanted = {}
    for row in rows:
        if row["is_current"]:
            wanted[row["id"]] = row
        else:
            skip_if_overtaken(ledger, row["id"])
    return wanted


def body_of(row: ResultRow) -> dict[str, Json]:
    """The body of a planned fact, without the session."""
    return build_body(
        text=row["text"],
        infer=row["infer"],
        selector=selector_of(row["selector"]),
        role=row["role"],
        category=row["category"],
        text_at=row["text_at"],
        labels=json.loads(row["labels"]) if row["labels"] else (),
    )


INTENDED = (
    "SELECT fact.id, version.mem0_id, session, position, body, request.key, infer, sent_after, attempts, candidate,"
    " order_key, sent_by FROM fact JOIN version ON version.id = fact.id"
    " JOIN request ON request.id = coalesce(fact.batch, fact.id)"
    " WHERE state = 'intended'"
)


def intended_facts(ledger: Ledger, *, lane: str | None = None, session: int | None = None) -> list[IntendedFact]:
    """Intended facts that were sent one by one, not in a batch, in the order of sending."""
    where, value = (LANE, lane) if session is None else ("fact.session = ?", session)
    rows = ledger.db.execute(f"{INTENDED} AND batch IS NULL AND {where} ORDER BY order_key", (value,)).fetchall()
    sessions = {number: known_session(ledger, number) for number in {row["session"] for row in rows}}
    return [intended_of(row, sessions[row["session"]]) for row in rows]


def intended_of(row: ResultRow, session: SessionRow) -> IntendedFact:
    """Make an `IntendedFact` of a row of `INTENDED`."""
    return IntendedFact(
        row["id"],
        row["mem0_id"],
        session,
        row["position"],
        row["body"].encode(),
        row["key"],
        row["infer"],
        row["sent_after"],
        row["attempts"],
        row["candidate"],
        row["order_key"],
        row["sent_by"],
    )


def back_to_planned(ledger: Ledger, facts: Sequence[int]) -> None:
    """Plan facts again whose bytes certainly never left, under the same keys.

    Overtaken ones become skipped, and late ones are sent without extraction.
    """
    for fact in facts:
        row = ledger.db.execute("SELECT reason FROM fact WHERE id = ? AND state = 'intended'", (fact,)).fetchone()
        if row is not None:
            plan_again(ledger, fact, was_sent=row["reason"] == SENT_BEFORE)
            mark_if_late(ledger, fact)
            skip_if_overtaken(ledger, fact)


def not_stored(ledger: Ledger, fact: int) -> None:
    """Plan a fact again that was sent and is certainly not stored.

    If overtaken, it becomes skipped; if late, it is sent without extraction.
    """
    plan_again(ledger, fact, was_sent=True)
    mark_if_late(ledger, fact)
    skip_if_overtaken(ledger, fact)


def plan_again(ledger: Ledger, fact: int, *, was_sent: bool = False) -> None:
    """Treat the fact as not stored: it keeps its key and will get another session and position."""
    drop_requests(ledger, [fact])
    ledger.db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, session = NULL, position = NULL, batch = NULL, was_sent = ?"
        " WHERE id = ?",
        (int(was_sent), fact),
    )


def _decide(ledger: Ledger, fact: int, state: FactState, reason: str | None) -> None:
    _decide_all(ledger, [(fact, state, reason)])


def _decide_all(ledger: Ledger, decided: Sequence[tuple[int, FactState, str | None]]) -> None:
    for rows in row_sets(decided):
        drop_requests(ledger, [row[0] for row in rows])
        ledger.db.execute(
            f"WITH decided(fact, state, reason) AS ({values(rows)}) UPDATE fact SET state = decided.state,"
            " reason = decided.reason, batch = NULL FROM decided WHERE fact.id = decided.fact",
            flat(rows),
        )


def drop_requests(ledger: Ledger, facts: Sequence[int]) -> None:
    """Delete the requests of decided facts. A batch keeps its request until all its facts are decided."""
    ledger.db.execute(f"DELETE FROM request WHERE id IN ({marks(facts)})", tuple(facts))
    ledger.db.execute(
        f"DELETE FROM request WHERE id IN (SELECT batch FROM fact WHERE id IN ({marks(facts)})) AND NOT EXISTS"
        f" (SELECT 1 FROM fact WHERE fact.batch = request.id AND fact.id NOT IN ({marks(facts)}))",
        (*facts, *facts),
    )


def receipt(
    ledger: Ledger, fact: int, got: Receipt, *, decided_by: str, seq: int | None = None, altered: bool = False
) -> None:
    """Record the receipt of a fact that is stored."""
    _keep_answers(ledger, [(fact, got)], decided_by, seq=seq, altered=altered)


def receipts(ledger: Ledger, got: Sequence[tuple[int, Receipt]]) -> None:
    """Record the receipts of several facts, in as few statements as one receipt takes."""
    _keep_answers(ledger, got, "answer")


def _keep_answers(
    ledger: Ledger,
    got: Sequence[tuple[int, Receipt]],
    decided_by: str,
    *,
    seq: int | None = None,
    altered: bool = False,
) -> None:
    _decide_all(
        ledger,
        [
            (fact, "written", None) if one.extracted else (fact, "stored_not_extracted", "nothing was extracted")
            for fact, one in got
        ],
    )
    _keep_receipts(ledger, [(fact, one.turn_id, seq, one.chunk_id) for fact, one in got], decided_by, altered=altered)
    if found := [(fact, id_) for fact, one in got for id_ in one.ids]:
        ledger.db.executemany("INSERT INTO extracted(fact, id) VALUES (?, ?) ON CONFLICT DO NOTHING", found)


WITHOUT_PASSAGE = "stored without passage"
"""The reason of a fact whose turn is there, but whose text no search finds. Only a person can have it sent again."""
EXTRACTION_UNKNOWN = "extraction unknown"
"""The reason of a fact whose turn is there, but whose answer was lost, so that it is not known what was extracted."""


def stored_by_turns(
    ledger: Ledger,
    fact: int,
    turn_id: str,
    seq: int,
    *,
    full: bool,
    altered: bool,
    chunk_id: str | None = None,
    without_passage: bool = False,
) -> None:
    """Record that the listing of turns shows the fact. Without the response, what was extracted stays unknown."""
    state: FactState = "stored_not_extracted" if full or without_passage else "written"
    _decide(ledger, fact, state, WITHOUT_PASSAGE if without_passage else EXTRACTION_UNKNOWN if full else None)
    _keep_receipts(ledger, [(fact, turn_id, seq, chunk_id)], "turns", altered=altered)


def stored_by_person(ledger: Ledger, fact: int) -> None:
    """Record a person's decision that the fact is stored. Its turn is the candidate, if there is one."""
    row = ledger.db.execute("SELECT candidate FROM request WHERE id = ?", (fact,)).fetchone()
    _decide(ledger, fact, "written", None)
    _keep_receipts(ledger, [(fact, row["candidate"] if row else None, None, None)], "person", altered=False)


def _keep_receipts(
    ledger: Ledger, stored: Sequence[tuple[int, str | None, int | None, str | None]], decided_by: str, *, altered: bool
) -> None:
    """`stored`: each fact with its turn, the turn's number and its chunk, as far as these are known."""
    for rows in row_sets(stored):
        ledger.db.execute(
            f"WITH stored(fact, turn_id, seq, chunk_id) AS ({values(rows)})"
            " INSERT INTO receipt(fact, session, turn_id, seq, chunk_id, decided_by, altered)"
            " SELECT fact.id, session, turn_id, CAST(seq AS BIGINT), chunk_id, ?, ? FROM stored"
            " JOIN fact ON fact.id = stored.fact WHERE session IS NOT NULL"
            " ON CONFLICT(fact) DO UPDATE SET session = excluded.session, turn_id = excluded.turn_id,"
            " seq = coalesce(excluded.seq, receipt.seq), chunk_id = coalesce(excluded.chunk_id, receipt.chunk_id),"
            " decided_by = excluded.decided_by, altered = excluded.altered",
            (*flat(rows), decided_by, int(altered)),
        )


def refuse(ledger: Ledger, fact: int, reason: str) -> None:
    """Record that the server refused the fact; `reason` is the server's."""
    _decide(ledger, fact, "refused", reason)


def undecidable(ledger: Ledger, fact: int, reason: str) -> None:
    """Record that no evidence decides the fact. A person has to resolve it by its id."""
    ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = ? WHERE id = ?", (reason, fact))


def note_attempt(ledger: Ledger, fact: int, *, sent_after: str, sent_by: str) -> None:
    """Record that the same bytes are sent again, so the key is valid for another day."""
    ledger.db.execute(
        "UPDATE request SET attempts = attempts + 1, sent_after = ?, sent_by = ? WHERE id = ?",
        (sent_after, sent_by, fact),
    )


def note_candidate(ledger: Ledger, fact: int, turn_id: str) -> None:
    """Record a listed turn that no receipt claims and that is probably this fact's."""
    ledger.db.execute("UPDATE request SET candidate = ? WHERE id = ?", (turn_id, fact))


def note_residue(ledger: Ledger, fact: int, turn_ids: Sequence[str]) -> None:
    """Record turns that earlier sends of this fact left on the server, besides the one that its receipt names."""
    ledger.db.executemany(
        "INSERT INTO residue(session, turn_id, fact) SELECT session, ?, id FROM fact WHERE id = ?"
        " AND session IS NOT NULL ON CONFLICT DO NOTHING",
        [(turn_id, fact) for turn_id in turn_ids],
    )
