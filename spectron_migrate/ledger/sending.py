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
from spectron_migrate.ledger.schema import FactState
from spectron_migrate.records import Infer, Selector, canonical_json, selector_of
from spectron_migrate.spectron.answers import Receipt


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
class SessionRow:
    """A session of ours; `server_id` is None until the server made it."""

    id: int
    selector: Selector
    run: str | None
    infer: Infer
    server_id: str | None
    used: int
    """Positions given out so far."""


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


def next_planned(ledger: Ledger, plan: int, lane: str, infer: Infer, limit: int) -> list[PlannedFact]:
    """The next facts of a lane, oldest first."""
    rows = ledger.db.execute(
        "SELECT id, mem0_id, selector, run, infer, order_key FROM fact"
        " WHERE state = 'planned' AND lane = ? AND plan = ? AND infer = ? ORDER BY order_key LIMIT ?",
        (lane, plan, infer, limit),
    )
    return [
        PlannedFact(row["id"], row["mem0_id"], selector_of(row["selector"]), row["run"], row["infer"], row["order_key"])
        for row in rows
    ]


def held_full(ledger: Ledger, lane: str) -> bool:
    """Whether a `full` fact of the lane is in doubt or undecidable: nothing newer may pass it."""
    row = ledger.db.execute(
        "SELECT EXISTS(SELECT 1 FROM fact WHERE state = 'intended' AND lane = ?1 AND infer = 'full')"
        " OR EXISTS(SELECT 1 FROM fact WHERE state = 'undecidable' AND lane = ?1 AND infer = 'full')",
        (lane,),
    ).fetchone()
    return bool(row[0])


# -- sessions ---------------------------------------------------------------------------------------------


def open_session(ledger: Ledger, selector: Selector, run: str | None, infer: Infer, size: int) -> SessionRow | None:
    """The open session for these facts that still has room; full ones are closed on the way."""
    rows = ledger.db.execute(
        "SELECT * FROM session WHERE selector = ? AND run IS ? AND infer = ? AND state = 'open' ORDER BY part",
        (canonical_json(selector), run, infer),
    ).fetchall()
    for row in rows:
        session = _session(ledger, row)
        if session.used < size:
            return session
        close_session(ledger, session.id)
    return None


def begin_session(ledger: Ledger, selector: Selector, run: str | None, infer: Infer, now: str) -> int:
    """Note that a session is about to be made. One whose answer is never known stays an empty orphan."""
    text = canonical_json(selector)
    cursor = ledger.db.execute(
        "INSERT INTO session(selector, run, infer, part, state, created_at) VALUES (?1, ?2, ?3,"
        " (SELECT count(*) FROM session WHERE selector = ?1 AND run IS ?2 AND infer = ?3), 'opening', ?4)",
        (text, run, infer, now),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT always has one
    return cursor.lastrowid


def session_made(ledger: Ledger, session: int, server_id: str, echo: Selector | None) -> SessionRow:
    """Keep the id that the server gave, before any fact names it."""
    ledger.db.execute(
        "UPDATE session SET state = 'open', server_id = ?, echo = ? WHERE id = ?",
        (server_id, canonical_json(echo) if echo is not None else None, session),
    )
    return _session(ledger, ledger.db.execute("SELECT * FROM session WHERE id = ?", (session,)).fetchone())


def orphan_session(ledger: Ledger, session: int) -> None:
    """Its answer never came: if the server made it, it stays empty; it is counted, never deleted."""
    ledger.db.execute("UPDATE session SET state = 'orphan' WHERE id = ?", (session,))


def close_session(ledger: Ledger, session: int) -> None:
    """Nothing is written to it any more; on the wire that takes no call."""
    ledger.db.execute("UPDATE session SET state = 'closed' WHERE id = ?", (session,))


def orphan_openings(ledger: Ledger) -> int:
    """Sessions that a process of ours was opening when it died."""
    return ledger.db.execute("UPDATE session SET state = 'orphan' WHERE state = 'opening'").rowcount


# -- facts ------------------------------------------------------------------------------------------------


def intend(
    ledger: Ledger, facts: Sequence[tuple[PlannedFact, SessionRow]], sent_after: str, sent_by: str
) -> list[IntendedFact]:
    """Fix bytes, key, session and position of facts that are about to be sent, in their order.

    A fact that a newer version or a tombstone overtook since it was planned is no longer planned, and left out.
    """
    intended = []
    used: dict[int, int] = {}
    for fact, session in facts:
        row = ledger.db.execute(
            "SELECT id, mem0_id, version, body, key, state FROM fact WHERE id = ?", (fact.id,)
        ).fetchone()
        if row["state"] != "planned" or _skip_overtaken(ledger, row):
            continue
        position = used.get(session.id, session.used)
        used[session.id] = position + 1
        content = canonical_json({**json.loads(row["body"]), "session_id": session.server_id})
        ledger.db.execute(
            "UPDATE fact SET state = 'intended', session = ?, position = ?, body = ?, sent_after = ?, sent_by = ?"
            " WHERE id = ?",
            (session.id, position, content, sent_after, sent_by, fact.id),
        )
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
    return intended


def intended_facts(ledger: Ledger, *, lane: str | None = None, session: int | None = None) -> list[IntendedFact]:
    """What is intended and undecided, in the order of sending."""
    where, value = ("fact.lane = ?", lane) if session is None else ("fact.session = ?", session)
    rows = ledger.db.execute(
        f"SELECT fact.* FROM fact WHERE state = 'intended' AND {where} ORDER BY order_key", (value,)
    ).fetchall()
    sessions: dict[int, SessionRow] = {}
    for row in rows:
        if row["session"] not in sessions:
            found = ledger.db.execute("SELECT * FROM session WHERE id = ?", (row["session"],)).fetchone()
            sessions[row["session"]] = _session(ledger, found)
    return [
        IntendedFact(
            row["id"],
            row["mem0_id"],
            sessions[row["session"]],
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
        for row in rows
    ]


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
        body = json.loads(row["body"])
        body.pop("session_id")
        ledger.db.execute(
            "UPDATE fact SET state = 'planned', session = NULL, position = NULL, sent_after = NULL, body = ?"
            " WHERE id = ?",
            (canonical_json(body), fact),
        )
        _skip_overtaken(ledger, row)


def overtaken(ledger: Ledger, mem0_id: str, version: int) -> str | None:
    """Why a fact should no longer be sent: a newer version, or a tombstone; None where it should."""
    newest = ledger.db.execute("SELECT max(version) FROM fact WHERE mem0_id = ?", (mem0_id,)).fetchone()[0]
    if newest > version:
        return f"replaced by version {newest}"
    row = ledger.db.execute("SELECT tombstoned_at FROM memory WHERE mem0_id = ?", (mem0_id,)).fetchone()
    return "deleted in Mem0" if row is not None and row["tombstoned_at"] is not None else None


def is_overtaken(ledger: Ledger, fact: int) -> bool:
    """Whether a newer version or a tombstone has overtaken an intended fact."""
    row = ledger.db.execute("SELECT mem0_id, version FROM fact WHERE id = ?", (fact,)).fetchone()
    return overtaken(ledger, row["mem0_id"], row["version"]) is not None


def _skip_overtaken(ledger: Ledger, row: Row) -> bool:
    reason = overtaken(ledger, row["mem0_id"], row["version"])
    if reason is not None:
        ledger.db.execute("UPDATE fact SET state = 'skipped', reason = ? WHERE id = ?", (reason, row["id"]))
    return reason is not None


def receipt(ledger: Ledger, fact: int, got: Receipt, *, decided_by: str, seq: int | None = None) -> None:
    """Decided: stored."""
    state: FactState = "written" if got.extracted else "stored_not_extracted"
    ledger.db.execute(
        "UPDATE fact SET state = ?, reason = ?, turn_id = ?, chunk_id = ?, ids = ?, decided_by = ?, candidate = NULL,"
        " seq = coalesce(?, seq) WHERE id = ?",
        (
            state,
            None if got.extracted else "nothing was extracted",
            got.turn_id,
            got.chunk_id,
            canonical_json(got.ids),
            decided_by,
            seq,
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


# -- scopes -----------------------------------------------------------------------------------------------


def keep_scope_listing(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """The scopes that are there before we register anything; kept once, for good."""
    ledger.db.executemany("INSERT OR IGNORE INTO scope(path, listed_before) VALUES (?, 1)", [(path,) for path in paths])
    ledger.db.execute("UPDATE migration SET scopes_listed_at = ? WHERE scopes_listed_at IS NULL", (now,))


def intend_scopes(ledger: Ledger, paths: Sequence[str], now: str) -> None:
    """Note, before the first POST /scopes, every path that it may create."""
    ledger.db.executemany(
        "INSERT INTO scope(path, listed_before, intended_at) VALUES (?1, 0, ?2) ON CONFLICT(path) DO UPDATE"
        " SET intended_at = coalesce(intended_at, ?2)",
        [(path, now) for path in paths],
    )


def scope_registered(ledger: Ledger, path: str, *, created_by_us: bool) -> None:
    """The node is there; ours where our own 201 made it."""
    ledger.db.execute(
        "UPDATE scope SET registered = 1, created_by_us = max(created_by_us, ?) WHERE path = ?",
        (created_by_us, path),
    )


def is_registered(ledger: Ledger, path: str) -> bool:
    """Whether this ledger saw the node registered."""
    row = ledger.db.execute("SELECT registered FROM scope WHERE path = ?", (path,)).fetchone()
    return row is not None and bool(row["registered"])


def _session(ledger: Ledger, row: Row) -> SessionRow:
    used = ledger.db.execute(
        "SELECT coalesce(max(position) + 1, 0) AS used FROM fact WHERE session = ?", (row["id"],)
    ).fetchone()["used"]
    return SessionRow(row["id"], selector_of(row["selector"]), row["run"], row["infer"], row["server_id"], used)
