"""One fact's way from intent to receipt. Every function here runs inside a transaction of `writer`.

Durable before the first byte leaves: the session's id, the final bytes, the key. Durable before the
session's next byte: every decision but a plain 200, so that a decision which is lost is always a 200.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Row

from spectron_migrate.ledger.ledger import Ledger
from spectron_migrate.ledger.overtaken import skip_overtaken
from spectron_migrate.ledger.schema import FactState, marks
from spectron_migrate.ledger.sessions import SessionRow, known_session
from spectron_migrate.records import Infer, Receipt, Selector, canonical_json, selector_of


@dataclass(frozen=True, slots=True)
class PlannedFact:
    """A fact that waits for its turn."""

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


# -- lanes ------------------------------------------------------------------------------------------------


def lanes_to_do(ledger: Ledger, plan: int, *, after: str | None, limit: int) -> list[str]:
    """Lanes with something to send or in doubt, in order, from behind `after`; one index step a lane."""
    lanes: list[str] = []
    found = after
    while len(lanes) < limit:
        row = ledger.db.execute(
            "SELECT min(lane) FROM (SELECT min(lane) AS lane FROM fact WHERE state = 'planned' AND lane > ?1"
            " UNION ALL SELECT min(lane) FROM fact WHERE state = 'intended' AND lane > ?1)",
            (found if found is not None else "",),
        ).fetchone()
        found = row[0]
        if found is None:
            break
        if _has_work(ledger, plan, found):
            lanes.append(found)
    return lanes


def _has_work(ledger: Ledger, plan: int, lane: str) -> bool:
    # Doubt is settled whatever the plan: it stands in the lane's way.
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND lane = ?1)"
        " OR EXISTS(SELECT 1 FROM fact WHERE state = 'planned' AND lane = ?1 AND plan = ?2)",
        (lane, plan),
    ).fetchone()
    return bool(row[0])


def next_planned(
    ledger: Ledger, plan: int, lane: str, infer: Infer, limit: int, *, after: str = ""
) -> list[PlannedFact]:
    """The next facts of a lane behind the order key `after`, oldest first."""
    rows = ledger.db.execute(
        "SELECT id, mem0_id, selector, run, infer, order_key, length(body) AS size FROM fact"
        " WHERE state = 'planned' AND lane = ? AND plan = ? AND infer = ? AND order_key > ?"
        " ORDER BY order_key LIMIT ?",
        (lane, plan, infer, after, limit),
    )
    return [
        PlannedFact(row["id"], row["mem0_id"], selector_of(row["selector"]), row["run"], row["infer"], row["order_key"])
        for row in rows
    ]


def count_planned(ledger: Ledger, plan: int, lane: str, infer: Infer, most: int) -> int:
    """How many facts of a lane are planned, up to `most`."""
    row = ledger.db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM fact WHERE state = 'planned' AND lane = ? AND plan = ? AND infer = ?"
        " LIMIT ?)",
        (lane, plan, infer, most),
    ).fetchone()
    return int(row[0])


def large_lanes(ledger: Ledger, plan: int, *, least: int, most: int) -> list[str]:
    """The largest lanes of at least so many planned facts, largest first: they take longest, so they begin first."""
    rows = ledger.db.execute(
        "SELECT lane FROM fact WHERE state = 'planned' AND plan = ? GROUP BY lane HAVING count(*) >= ?"
        " ORDER BY count(*) DESC LIMIT ?",
        (plan, least, most),
    )
    return [row["lane"] for row in rows]


def held_full(ledger: Ledger, lane: str) -> bool:
    """Whether a `full` fact of the lane is in doubt or undecidable: nothing newer may pass it."""
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND lane = ?1 AND infer = 'full')"
        " OR EXISTS(SELECT 1 FROM fact WHERE state = 'undecidable' AND lane = ?1 AND infer = 'full')",
        (lane,),
    ).fetchone()
    return bool(row[0])


# -- facts ------------------------------------------------------------------------------------------------


def intend(
    ledger: Ledger, facts: Sequence[tuple[PlannedFact, SessionRow]], sent_after: str, sent_by: str
) -> list[IntendedFact]:
    """Fix bytes, key, session and position of facts that are about to be sent, in their order.

    A fact that a newer version or a tombstone overtook since it was planned is no longer planned, and left out.
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
        content = canonical_json({**json.loads(row["body"]), "session_id": session.server_id})
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
            )
        )
    ledger.db.executemany(
        "UPDATE fact SET state = 'intended', session = ?, position = ?, batch = NULL, body = ?, sent_after = ?,"
        " sent_by = ? WHERE id = ?",
        [(one.session.id, one.position, one.content.decode(), sent_after, sent_by, one.id) for one in intended],
    )
    return intended


def still_planned(ledger: Ledger, facts: Sequence[int]) -> dict[int, Row]:
    """Those of the facts that are still to be sent, with body and key; overtaken ones are skipped by name."""
    rows = ledger.db.execute(
        "SELECT fact.id, fact.mem0_id, version, body, key, tombstoned_at,"
        " (SELECT max(version) FROM fact AS newer WHERE newer.mem0_id = fact.mem0_id) AS newest"
        " FROM fact LEFT JOIN memory ON memory.mem0_id = fact.mem0_id"
        f" WHERE fact.id IN ({marks(facts)}) AND state = 'planned'",
        tuple(facts),
    ).fetchall()
    wanted = {}
    for row in rows:
        if row["newest"] > row["version"] or row["tombstoned_at"] is not None:
            skip_overtaken(ledger, row)
        else:
            wanted[row["id"]] = row
    return wanted


def intended_facts(ledger: Ledger, *, lane: str | None = None, session: int | None = None) -> list[IntendedFact]:
    """What is intended alone, not in a batch, and undecided, in the order of sending."""
    where, value = ("fact.lane = ?", lane) if session is None else ("fact.session = ?", session)
    rows = ledger.db.execute(
        f"SELECT fact.* FROM fact WHERE state = 'intended' AND batch IS NULL AND {where} ORDER BY order_key", (value,)
    ).fetchall()
    sessions = {number: known_session(ledger, number) for number in {row["session"] for row in rows}}
    return [intended_of(row, sessions[row["session"]]) for row in rows]


def intended_of(row: Row, session: SessionRow) -> IntendedFact:
    """A row of the table as what it means."""
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
    """Facts that certainly never left: they get a new session and position, under the same key.

    One that a newer version or a tombstone overtook meanwhile is skipped instead.
    """
    for fact in facts:
        row = ledger.db.execute(
            "SELECT id, mem0_id, version, body FROM fact WHERE id = ? AND state = 'intended'", (fact,)
        ).fetchone()
        if row is None:
            continue
        plan_again(ledger, fact, row["body"])
        skip_overtaken(ledger, row)


def plan_again(ledger: Ledger, fact: int, body: str) -> None:
    """It counts as never sent: a new session and position, under the same key."""
    changed = json.loads(body)
    changed.pop("session_id", None)
    ledger.db.execute(
        "UPDATE fact SET state = 'planned', reason = NULL, session = NULL, position = NULL, batch = NULL,"
        " sent_after = NULL, body = ? WHERE id = ?",
        (canonical_json(changed), fact),
    )


def receipt(
    ledger: Ledger, fact: int, got: Receipt, *, decided_by: str, seq: int | None = None, altered: bool = False
) -> None:
    """Decided: stored."""
    state: FactState = "written" if got.extracted else "stored_not_extracted"
    ledger.db.execute(
        "UPDATE fact SET state = ?, reason = ?, turn_id = ?, chunk_id = ?, ids = ?, decided_by = ?, candidate = NULL,"
        " seq = coalesce(?, seq), altered = ? WHERE id = ?",
        (
            state,
            None if got.extracted else "nothing was extracted",
            got.turn_id,
            got.chunk_id,
            canonical_json(got.ids),
            decided_by,
            seq,
            altered,
            fact,
        ),
    )


def stored_by_turns(ledger: Ledger, fact: int, turn_id: str, seq: int, *, full: bool, altered: bool) -> None:
    """Decided by the listing of turns alone: the answer, and so what was extracted, is not known."""
    ledger.db.execute(
        "UPDATE fact SET state = ?, reason = ?, turn_id = ?, seq = ?, decided_by = 'turns', altered = ?,"
        " candidate = NULL WHERE id = ?",
        (
            "stored_not_extracted" if full else "written",
            "extraction unknown" if full else None,
            turn_id,
            seq,
            altered,
            fact,
        ),
    )


def refuse(ledger: Ledger, fact: int, reason: str) -> None:
    """The server will not have it, in its own words."""
    ledger.db.execute(
        "UPDATE fact SET state = 'refused', reason = ?, decided_by = 'answer', attempts = attempts + 1 WHERE id = ?",
        (reason, fact),
    )


def undecidable(ledger: Ledger, fact: int, reason: str) -> None:
    """Nobody can tell from here; a person resolves it by name."""
    ledger.db.execute("UPDATE fact SET state = 'undecidable', reason = ? WHERE id = ?", (reason, fact))


def note_attempt(ledger: Ledger, fact: int, *, sent_after: str, sent_by: str) -> None:
    """The same bytes go again, and the key's day begins anew."""
    ledger.db.execute(
        "UPDATE fact SET attempts = attempts + 1, sent_after = ?, sent_by = ? WHERE id = ?",
        (sent_after, sent_by, fact),
    )


def note_candidate(ledger: Ledger, fact: int, turn_id: str) -> None:
    """A turn that nobody claims stands in the listing: probably this fact's."""
    ledger.db.execute("UPDATE fact SET candidate = ? WHERE id = ?", (turn_id, fact))


def note_residue(ledger: Ledger, fact: int, turn_ids: Sequence[str]) -> None:
    """Turns that the server left behind for this fact beside the one it answered with."""
    row = ledger.db.execute("SELECT residue FROM fact WHERE id = ?", (fact,)).fetchone()
    known = json.loads(row["residue"]) if row["residue"] else []
    ledger.db.execute("UPDATE fact SET residue = ? WHERE id = ?", (canonical_json(sorted({*known, *turn_ids})), fact))


def claimed_turns(ledger: Ledger, session: int) -> set[str]:
    """Turn ids of the session that have a receipt."""
    rows = ledger.db.execute("SELECT turn_id FROM fact WHERE session = ? AND turn_id IS NOT NULL", (session,))
    return {row["turn_id"] for row in rows}


def residue_turns(ledger: Ledger, session: int) -> set[str]:
    """Turn ids of the session that are known as left behind by the server."""
    rows = ledger.db.execute("SELECT residue FROM fact WHERE session = ? AND residue IS NOT NULL", (session,))
    return {turn for row in rows for turn in json.loads(row["residue"])}
